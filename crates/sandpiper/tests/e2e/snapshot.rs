//! Sandboxes that go on from what was captured: out of a baked image, and after a pause to disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::server;

async fn change(server: &Server, id: &str, action: &str) -> u16 {
    server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await.status
}

async fn status(server: &Server, id: &str) -> String {
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    row.body["status"].as_str().unwrap().to_owned()
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The guest's clock is between the host's before and after the question, give or take a tenth of a second.
async fn check_clock(server: &Server, id: &str) {
    let before = seconds();
    let guest: f64 = server.shell(id, "date +%s.%N").await.1.trim().parse().unwrap();
    let after = seconds();
    assert!(guest > before - 0.1 && guest < after + 0.1, "{before} {guest} {after}");
}

fn images(server: &Server) -> Vec<PathBuf> {
    fs::read_dir(server.data_dir().join("bakes")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn sandboxes_of_one_shape_come_from_one_image_and_share_nothing_that_must_differ() {
    let server = server(&["--templates", "python311"]).await;
    let body = || json!({ "template": "python311" });
    let (first, second) = tokio::join!(server.create(body()), server.create(body()));
    assert_eq!(images(&server).len(), 1, "one image, however many wait for it");
    assert!(!server.log().contains("boots instead"), "{}", server.log());
    let inventory = server.inventory();
    assert_eq!((inventory.of_kind("monitor").len(), inventory.of_kind("directory").len()), (2, 2));

    let script = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id
        od -An -N16 -tx1 /dev/urandom
        python3 -c 'import os, random; print(os.getrandom(16).hex()); print(random.random())'
        hostname";
    let (one, two) = (server.shell(&first, script).await.1, server.shell(&second, script).await.1);
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!((one.len(), two.len()), (7, 7), "{one:?} {two:?}");
    for (one, two) in one.iter().zip(&two) {
        assert_ne!(one, two, "the same in two sandboxes");
    }
    assert_eq!((one[6], two[6]), (first.as_str(), second.as_str()), "each its own name");
    for id in [&first, &second] {
        check_clock(&server, id).await;
    }

    server.shell(&first, "echo mine > /root/file").await;
    assert_eq!(server.shell(&second, "test -e /root/file").await.0, 1, "disks are apart");
    for (id, file) in [(&first, "memory"), (&second, "overlay.qcow2")] {
        let path = images(&server)[0].join(file);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o222, 0, "{id}: nobody may write {file}");
    }
}

#[tokio::test]
async fn where_nothing_can_be_baked_sandboxes_boot() {
    let server = server(&[]).await;
    fs::remove_dir(server.data_dir().join("bakes")).unwrap();
    fs::write(server.data_dir().join("bakes"), "").unwrap();
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "echo works").await, (0, "works\n".to_owned()));
    assert!(server.log().contains("no baked image: the sandbox boots instead"), "{}", server.log());
    // What was booted can be paused too.
    server.shell(&id, "echo kept > /dev/shm/file").await;
    assert_eq!((change(&server, &id, "pause").await, change(&server, &id, "resume").await), (200, 200));
    assert_eq!(server.shell(&id, "cat /dev/shm/file").await, (0, "kept\n".to_owned()));
}

#[tokio::test]
async fn an_image_that_is_damaged_is_made_anew() {
    let server = server(&[]).await;
    server.create(json!({})).await;
    let state = images(&server)[0].join("state");
    fs::write(&state, "nonsense").unwrap();
    let id = server.create(json!({})).await;
    assert_eq!(server.shell(&id, "echo works").await, (0, "works\n".to_owned()));
    assert!(server.log().contains("an image is made anew"), "{}", server.log());
    assert_ne!(fs::read(&state).unwrap(), b"nonsense");
}

/// Counts through a TCP connection inside the guest, writes each number to a file that stays open, and keeps a pattern
/// in memory.
pub const COUNTER: &str = r#"
import socket, threading, time
pattern = bytes(range(256)) * 4096
server = socket.create_server(("127.0.0.1", 7000))
def serve():
    connection, _ = server.accept()
    while data := connection.recv(64):
        connection.sendall(data)
threading.Thread(target=serve, daemon=True).start()
client = socket.create_connection(("127.0.0.1", 7000))
with open("/dev/shm/count", "w") as file:
    number = 0
    while True:
        number += 1
        client.sendall(str(number).encode())
        answer = int(client.recv(64))
        assert answer == number and pattern == bytes(range(256)) * 4096
        file.seek(0)
        file.write(str(number) + "\n")
        file.flush()
        time.sleep(0.02)
"#;

#[tokio::test]
async fn a_paused_sandbox_is_only_files_and_goes_on_where_it_was() {
    let server = server(&["--templates", "python311"]).await;
    let id = server.create(json!({ "template": "python311", "vcpus": 2 })).await;
    let start = format!("cat > /root/counter.py <<'E'\n{COUNTER}E\npython3 /root/counter.py >/root/log 2>&1 &");
    assert_eq!(server.shell(&id, &start).await.0, 0);
    let count = async || server.shell(&id, "cat /dev/shm/count").await.1.trim().parse::<u64>().ok();
    let mut last = wait_for("the counter to count", count).await;
    let machine_id = server.shell(&id, "cat /etc/machine-id").await.1;
    assert_eq!(server.shell(&id, "hostname renamed && hostname > /etc/hostname").await.0, 0);
    for round in 0..3 {
        assert_eq!(change(&server, &id, "pause").await, 200, "{}", server.log());
        assert_eq!(status(&server, &id).await, "paused");
        assert!(server.inventory().of_kind("monitor").is_empty(), "a paused sandbox has no process");
        let refused = server.call("POST", &format!("/v1/sandboxes/{id}/exec"), json!({ "cmd": "true" })).await;
        assert_eq!(refused.status, 409);
        assert_eq!(change(&server, &id, "resume").await, 200, "{}", server.log());
        check_clock(&server, &id).await;
        let resumed = count().await.unwrap();
        assert!(resumed >= last, "round {round}: {resumed} after {last}");
        last = wait_for("the counter to go on", async || count().await.filter(|now| *now > resumed)).await;
    }
    assert_eq!(server.shell(&id, "cat /root/log").await, (0, String::new()), "the counter found nothing wrong");
    assert_eq!(server.shell(&id, "cat /etc/machine-id").await.1, machine_id, "it is the same sandbox");
    let name = server.shell(&id, "hostname; cat /etc/hostname").await.1;
    assert_eq!(name, "renamed\nrenamed\n", "what its user changed stays");
    assert_eq!(change(&server, &id, "pause").await, 200);
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    assert!(server.inventory().of_kind("directory").is_empty(), "nothing is left of a paused one either");
}

/// A small file system over a directory, as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(directory: &Path, megabytes: u32) -> Self {
        let options = format!("size={megabytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(directory).status();
        assert!(mounted.unwrap().success());
        Self(directory.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that still runs has files open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_pause_that_fails_leaves_the_sandbox_running_and_nothing_half_written() {
    let server = server(&[]).await;
    let sandboxes = server.data_dir().join("sandboxes");
    server.create(json!({})).await;
    // Enough for a sandbox and not for its memory a second time.
    let image: u64 = fs::metadata(images(&server)[0].join("memory"))
        .map(|metadata| (std::os::unix::fs::MetadataExt::blocks(&metadata) * 512) >> 20)
        .unwrap();
    let disk = SmallDisk::over(&sandboxes, u32::try_from(image).unwrap() + 40);
    let id = server.create(json!({})).await;
    assert!(!server.log().contains("boots instead"), "{}", server.log());
    server.shell(&id, "(while true; do printf x >> /tmp/ticks; sleep 0.05; done) > /dev/null 2>&1 &").await;
    let ticks = async || server.shell(&id, "wc -c < /tmp/ticks").await.1.trim().parse::<u64>().ok();
    let before = wait_for("the background process to tick", ticks).await;

    let own = sandboxes.join(&id);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&own).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        // What was decided last is remembered, whatever came of it.
        names.retain(|name| name != "generation");
        names.sort();
        names
    };
    let files = names();
    let answer = server.call("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).await;
    assert_eq!((answer.status, answer.body["error"]["code"].as_str()), (507, Some("no_space")), "{answer:?}");
    assert_eq!(names(), files, "nothing half-written");

    // Another step that fails: the state has no place.
    fs::write(own.join("paused.staged"), "").unwrap();
    assert!(change(&server, &id, "pause").await >= 500);
    assert_eq!(status(&server, &id).await, "running");
    wait_for("the sandbox to go on", async || ticks().await.filter(|now| *now > before)).await;
    check_clock(&server, &id).await;

    fs::remove_file(own.join("paused.staged")).unwrap();
    let remount = format!("remount,size={}m", image * 3 + 200);
    assert!(Command::new("mount").args(["-o", &remount]).arg(&sandboxes).status().unwrap().success());
    assert_eq!(change(&server, &id, "pause").await, 200, "{}", server.log());
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    drop(disk);
}

#[tokio::test]
async fn a_resume_that_fails_leaves_the_sandbox_paused_and_intact() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    server.shell(&id, "echo kept > /dev/shm/file").await;
    assert_eq!(change(&server, &id, "pause").await, 200, "{}", server.log());
    let paused = server.data_dir().join("sandboxes").join(&id).join("paused");
    // Each is refused before a monitor is started, or by the monitor before the guest runs.
    for (file, from, to) in [
        ("manifest.json", "\"accelerator\": \"", "\"accelerator\": \"x"),
        ("manifest.json", "\"bundle\": \"", "\"bundle\": \"0"),
        ("manifest.json", "\"guest_protocol\": 3", "\"guest_protocol\": 1"),
        ("manifest.json", "\"state\": \"", "\"state\": \"0"),
        ("manifest.json", "{", "["),
    ] {
        let path = paused.join(file);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.replacen(from, to, 1)).unwrap();
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/resume"), Value::Null).await;
        assert!(answer.status >= 409, "{to}: {answer:?}");
        assert_eq!(status(&server, &id).await, "paused", "{to}");
        assert!(server.inventory().of_kind("monitor").is_empty(), "{to}");
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(change(&server, &id, "resume").await, 200, "{}", server.log());
    assert_eq!(server.shell(&id, "cat /dev/shm/file").await, (0, "kept\n".to_owned()));
}

#[tokio::test]
async fn a_monitor_that_is_killed_after_a_resume_does_not_bring_the_older_state_back() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    assert_eq!((change(&server, &id, "pause").await, change(&server, &id, "resume").await), (200, 200));
    let own = server.data_dir().join("sandboxes").join(&id);
    assert!(!own.join("paused").exists(), "what was resumed cannot be resumed again");
    let monitor = server.inventory().of_kind("monitor")[0].to_owned();
    assert!(Command::new("kill").args(["-KILL", &monitor]).status().unwrap().success());
    wait_for("its directory to be gone", async || (!own.exists()).then_some(())).await;
    assert_eq!(change(&server, &id, "resume").await, 409);
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
}

#[tokio::test]
async fn a_monitor_that_is_killed_during_a_pause_gives_everything_back() {
    let server = server(&[]).await;
    let before = server.inventory();
    let id = server.create(json!({})).await;
    let monitor = server.inventory().of_kind("monitor")[0].to_owned();
    let kill = |signal: &str| assert!(Command::new("kill").args([signal, &monitor]).status().unwrap().success());
    // A monitor that stands still keeps the pause from coming to its end before it is killed.
    kill("-STOP");
    let pausing = change(&server, &id, "pause");
    let killing = async {
        wait_for("the pause to begin", async || (status(&server, &id).await == "pausing").then_some(())).await;
        kill("-KILL");
    };
    let (answer, ()) = tokio::join!(pausing, killing);
    assert!(answer >= 409, "{answer}");
    wait_for("the sandbox to be in error", async || (status(&server, &id).await == "error").then_some(())).await;
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
}
