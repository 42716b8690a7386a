//! A `sandpiper` process for one test.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Inventory, wait_for};

/// Shows a process another wall clock (Debian's libfaketime).
const WALL_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Flags beyond the data directory and the listen address.
    pub arguments: Vec<OsString>,
    /// Copies the template's files instead of sharing them, for tests that damage them.
    pub own_templates: bool,
}

/// A running server with a data directory of its own. It is ended, with its sandboxes, when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    binary: PathBuf,
    arguments: Vec<OsString>,
    data_dir: TempDir,
    url: String,
    http: reqwest::Client,
}

/// An answer of the REST API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; null when it is none.
    pub body: Value,
}

impl Server {
    /// Starts `binary up` and waits until it is ready.
    pub async fn start(binary: &Path, options: ServerOptions) -> Self {
        let data_dir = tempfile::Builder::new().prefix("sandpiper-test-").tempdir().unwrap();
        share_templates(data_dir.path(), options.own_templates);
        let child = command(binary, data_dir.path(), &options.arguments).spawn().unwrap();
        let mut server = Self {
            child,
            binary: binary.to_owned(),
            arguments: options.arguments,
            data_dir,
            url: String::new(),
            http: reqwest::Client::new(),
        };
        server.wait_until_ready().await;
        server
    }

    /// Starts the server again in the same data directory, after it ended.
    pub async fn start_again(&mut self) {
        self.child = command(&self.binary, self.data_dir.path(), &self.arguments).spawn().unwrap();
        self.wait_until_ready().await;
    }

    /// As [`Self::start_again`], for a server that believes it is later.
    pub async fn start_again_later(&mut self, days: u32) {
        let mut command = command(&self.binary, self.data_dir.path(), &self.arguments);
        // Only the wall clock moves: what waits for so many seconds still does.
        command
            .env("LD_PRELOAD", WALL_CLOCK)
            .env("FAKETIME", format!("+{days}d"))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.child = command.spawn().unwrap();
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&mut self) {
        let log = log_of(self.data_dir.path());
        let child = &mut self.child;
        self.url = wait_for("the server to be ready", async || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "the server ended:\n{text}");
            let ready = text.lines().find_map(|line| line.split_once("ready at ")?.1.split_whitespace().next());
            ready.map(str::to_owned)
        })
        .await;
    }

    /// `http://address:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it keeps everything.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(log_of(self.data_dir.path())).unwrap_or_default()
    }

    /// What it has on the machine.
    pub fn inventory(&self) -> Inventory {
        Inventory::take(self.data_dir.path())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by the name that `kill` knows.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the server to end", async || child.try_wait().unwrap()).await
    }

    /// A request with a JSON body, or none where that is null.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    /// Creates a sandbox and returns its id.
    pub async fn create(&self, body: Value) -> String {
        let answer = self.call("POST", "/v1/sandboxes", body).await;
        assert_eq!(answer.status, 201, "{answer:?}\n{}", self.log());
        assert_eq!(answer.body["status"], "running");
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell script in a sandbox and returns exit code and standard output.
    pub async fn shell(&self, id: &str, script: &str) -> (i64, String) {
        let body = serde_json::json!({ "cmd": "bash", "args": ["-c", script] });
        let answer = self.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.body["exit_code"].as_i64().unwrap(), answer.body["stdout"].as_str().unwrap().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("TERM");
            let _ = self.child.wait();
        }
        end_monitors(self.data_dir.path());
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

/// Ends what runs on without its server. The rest of it is swept by the next server on this machine.
pub fn end_monitors(data_dir: &Path) {
    for monitor in Inventory::take(data_dir).of_kind("monitor") {
        let _ = Command::new("kill").args(["-KILL", monitor]).status();
    }
}

fn log_of(data_dir: &Path) -> PathBuf {
    data_dir.join("server.log")
}

fn command(binary: &Path, data_dir: &Path, arguments: &[OsString]) -> Command {
    let log = fs::File::create(log_of(data_dir)).unwrap();
    let mut command = Command::new(binary);
    command
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir)
        .args(arguments)
        // Tests count what is on the machine; those of the pool ask for it by its flag, which wins.
        .env("SANDPIPER_POOL", "off")
        // And what a test has made is to end with it, unless it asks for something else in the same way.
        .env("SANDPIPER_ON_EXIT", "destroy")
        .env_remove("SANDPIPER_DATA_DIR")
        .env_remove("DATABASE_URL")
        .env_remove("SANDPIPER_CONFIG")
        .env_remove("SANDPIPER_LOG_FORMAT")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// Templates take minutes to build, so they are built once for all tests (`make test` does) and shown to each server.
pub fn share_templates(data_dir: &Path, own: bool) {
    let shared = std::env::var_os("SANDPIPER_TEST_TEMPLATES");
    let shared = shared.map_or_else(|| PathBuf::from("/var/cache/sandpiper/templates"), PathBuf::from);
    let needed = shared.join("templates/minimal/current");
    assert!(needed.exists(), "{} is missing: `make test` builds it", needed.display());
    for name in ["templates", "boot", "vmm"] {
        fs::create_dir_all(shared.join(name)).unwrap();
        if own {
            let copied = Command::new("cp").arg("-a").arg(shared.join(name)).arg(data_dir).status().unwrap();
            assert!(copied.success());
        } else {
            symlink(shared.join(name), data_dir.join(name)).unwrap();
        }
    }
}
