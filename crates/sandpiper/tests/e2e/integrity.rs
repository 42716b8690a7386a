//! Not one byte is lost: sandboxes are paused, resumed, captured, forked and deleted at random, over restarts of the host
//! agent, and after each step every guest that runs shows that its files and its memory are what they were.
//! `make integrity` runs many cycles; a seed that it printed runs the same again.

use std::fs;
use std::path::Path;

use host_agent::snapshot::{Layer, Manifest, Snapshots};

use super::host::{FileSystem, Host};
use super::number;

/// Keeps a pattern in memory. Who connects is told its digest, and may have asked for a new one.
const KEEPER: &str = r#"
import hashlib, os, socket
pattern = os.urandom(4 << 20)
server = socket.create_server(("127.0.0.1", 7001))
while True:
    connection, _ = server.accept()
    if connection.recv(16) == b"new":
        pattern = os.urandom(4 << 20)
    connection.sendall(hashlib.sha256(pattern).hexdigest().encode())
    connection.close()
"#;

const PATTERN_BYTES: u64 = 4 << 20;

/// Asks the keeper.
fn ask(word: &str) -> String {
    format!("exec 3<>/dev/tcp/127.0.0.1/7001; printf {word} >&3; cat <&3; echo")
}

/// Fails where a file is not what it was; then prints the digest of all their digests, and the pattern's.
fn look() -> String {
    format!("cd /root/tree && sha256sum --quiet -c /root/sums && sha256sum < /root/sums && {}", ask("old"))
}

const MOST_SANDBOXES: usize = 4;
const MOST_SNAPSHOTS: usize = 3;
const CHILDREN: usize = 2;

/// What a guest must show.
#[derive(Debug, Clone, Default)]
struct Expected {
    shown: String,
    /// Of its files and its pattern.
    bytes: u64,
}

struct Sandbox {
    id: String,
    is_paused: bool,
    expected: Expected,
}

struct Run {
    host: Host,
    random: Random,
    sandboxes: Vec<Sandbox>,
    snapshots: Vec<(String, Expected)>,
    made: usize,
    verified_bytes: u64,
    deepest: usize,
    restarts: usize,
}

/// Numbers that follow from a seed (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

impl Run {
    async fn new(file_system: FileSystem, seed: u64) -> Self {
        let host = Host::start(file_system, &["--templates", "python311", "--on-exit", "keep"]).await;
        let id = host.create("python311").await;
        let keep = format!(
            "mkdir /root/tree; cat > /root/keeper.py <<'E'\n{KEEPER}E\n(python3 /root/keeper.py &) >/dev/null 2>&1
            until (exec 3<>/dev/tcp/127.0.0.1/7001; printf old >&3; cat <&3) 2>/dev/null; do :; done"
        );
        host.shell(&id, &keep).await;
        let first =
            Sandbox { id, is_paused: false, expected: Expected { bytes: PATTERN_BYTES, ..Expected::default() } };
        let (sandboxes, snapshots) = (vec![first], Vec::new());
        let random = Random::new(seed);
        let mut run = Self { host, random, sandboxes, snapshots, made: 0, verified_bytes: 0, deepest: 0, restarts: 0 };
        run.change(0).await;
        run
    }

    /// Gives a guest that runs a new file and a new pattern.
    async fn change(&mut self, index: usize) {
        let bytes = 1000 + self.random.below(3_000_000);
        let sandbox = &mut self.sandboxes[index];
        sandbox.expected.bytes += bytes as u64;
        let write = format!(
            "head -c {bytes} /dev/urandom > /root/tree/$(ls /root/tree | wc -l); cd /root/tree; sha256sum * > /root/sums;
            sha256sum < /root/sums; {}",
            ask("new")
        );
        sandbox.expected.shown = self.host.shell(&sandbox.id, &write).await;
    }

    /// One step, and then a look at all.
    async fn cycle(&mut self) {
        let index = self.random.below(self.sandboxes.len());
        if !self.sandboxes[index].is_paused {
            self.change(index).await;
        }
        match self.random.below(10) {
            0..3 => self.pause_or_resume(index).await,
            3..5 if self.snapshots.len() < MOST_SNAPSHOTS => drop(self.snapshot(index).await),
            5..7 if self.sandboxes.len() + CHILDREN <= MOST_SANDBOXES => self.fork(index).await,
            7 if !self.snapshots.is_empty() => self.create_or_delete_snapshot().await,
            8 => self.restart().await,
            _ if self.sandboxes.len() > 1 => {
                self.host.destroy(&self.sandboxes.remove(index).id).await;
            }
            _ => self.pause_or_resume(index).await,
        }
        self.verify_guests().await;
    }

    async fn pause_or_resume(&mut self, index: usize) {
        let sandbox = &mut self.sandboxes[index];
        match sandbox.is_paused {
            true => self.host.resume(&sandbox.id).await,
            false => self.host.pause(&sandbox.id).await,
        }
        sandbox.is_paused = !sandbox.is_paused;
    }

    async fn snapshot(&mut self, index: usize) -> String {
        self.made += 1;
        let id = format!("sn{}", self.made);
        let sandbox = &self.sandboxes[index];
        self.host.snapshot(&sandbox.id, &id).await;
        self.snapshots.push((id.clone(), sandbox.expected.clone()));
        id
    }

    async fn fork(&mut self, index: usize) {
        let id = self.snapshot(index).await;
        let (_, expected) = self.snapshots.pop().unwrap();
        let (one, two) = tokio::join!(self.host.create_from(&id), self.host.create_from(&id));
        self.host.delete_snapshot(&id).await.unwrap();
        for id in [one, two] {
            self.sandboxes.push(Sandbox { id, is_paused: false, expected: expected.clone() });
        }
    }

    async fn create_or_delete_snapshot(&mut self) {
        let index = self.random.below(self.snapshots.len());
        if self.sandboxes.len() < MOST_SANDBOXES {
            let (id, expected) = self.snapshots[index].clone();
            let id = self.host.create_from(&id).await;
            self.sandboxes.push(Sandbox { id, is_paused: false, expected });
        } else {
            self.host.delete_snapshot(&self.snapshots.remove(index).0).await.unwrap();
        }
    }

    /// All survive it.
    async fn restart(&mut self) {
        self.host.end(["KILL", "TERM"][self.random.below(2)]).await;
        self.host.start_again().await;
        self.restarts += 1;
        assert_eq!(self.host.list().await.len(), self.sandboxes.len());
        let index = self.random.below(self.sandboxes.len());
        self.pause_or_resume(index).await;
    }

    async fn verify_guests(&mut self) {
        for sandbox in &self.sandboxes {
            let layers = layers(&self.host.sandbox_dir(&sandbox.id));
            self.deepest = self.deepest.max(layers.len());
            if !sandbox.is_paused {
                assert_eq!(self.host.shell(&sandbox.id, &look()).await, sandbox.expected.shown, "{}", sandbox.id);
                self.verified_bytes += sandbox.expected.bytes;
            }
        }
    }

    /// Every guest, and every frozen file.
    async fn verify_all(&mut self) {
        for index in 0..self.sandboxes.len() {
            if self.sandboxes[index].is_paused {
                self.pause_or_resume(index).await;
            }
        }
        self.verify_guests().await;
        for (id, frozen) in Snapshots::open(self.host.data_dir()).unwrap().list().unwrap() {
            frozen.verify().unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        for bake in fs::read_dir(self.host.data_dir().join("bakes")).unwrap() {
            let bake = bake.unwrap().path();
            Manifest::read(&bake).unwrap().verify(&bake).unwrap();
        }
        for sandbox in &self.sandboxes {
            let directory = self.host.sandbox_dir(&sandbox.id);
            for layer in layers(&directory) {
                layer.verify(&directory).unwrap();
            }
        }
    }
}

/// What is between a sandbox's template and its own overlay.
fn layers(directory: &Path) -> Vec<Layer> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(directory.join("record.json")).unwrap()).unwrap();
    serde_json::from_value(record["layers"].clone()).unwrap()
}

async fn cycles(file_system: FileSystem) {
    let count = number("SANDPIPER_INTEGRITY_CYCLES", 16) / 2;
    let seed = number("SANDPIPER_INTEGRITY_SEED", 20);
    let mut run = Run::new(file_system, seed).await;
    for cycle in 0..count {
        eprintln!("{file_system:?}, seed {seed}, cycle {cycle}");
        run.cycle().await;
    }
    run.verify_all().await;
    assert!(run.deepest <= 4, "{} layers", run.deepest);
    eprintln!(
        "{file_system:?}: {count} cycles, {} MB verified, {} layers in the deepest chain, {} restarts of the host agent",
        run.verified_bytes >> 20,
        run.deepest,
        run.restarts,
    );
}

#[tokio::test]
async fn not_one_byte_is_lost_over_random_cycles_on_ext4() {
    cycles(FileSystem::Ext4).await;
}

#[tokio::test]
async fn not_one_byte_is_lost_over_random_cycles_on_xfs() {
    cycles(FileSystem::Xfs).await;
}
