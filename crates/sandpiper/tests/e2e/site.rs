//! A host agent and control planes as processes of their own, each of which may be killed and started again while clients
//! go on calling.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Answer, Inventory, Postgres, wait_for};

use super::binary;

/// One process and how it is started.
pub struct Process {
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Process {
    async fn start(arguments: Vec<String>, log: PathBuf) -> Self {
        let child = spawn(&arguments, &log);
        let mut process = Self { arguments, log, child };
        process.ready().await;
        process
    }

    async fn ready(&mut self) {
        let (log, child) = (&self.log, &mut self.child);
        wait_for("a process to be ready", async || {
            let text = fs::read_to_string(log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "it ended:\n{text}");
            text.contains("ready at ").then_some(())
        })
        .await;
    }

    /// Kills it at once.
    pub async fn kill(&mut self) {
        self.child.kill().unwrap();
        let child = &mut self.child;
        wait_for("a killed process to end", async || child.try_wait().unwrap()).await;
    }

    /// Starts it again after it has ended.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.arguments, &self.log);
        self.ready().await;
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{} said:\n{}", self.arguments[0], self.said());
        }
    }
}

/// What it says comes after what it said before it was killed.
fn spawn(arguments: &[String], log: &Path) -> Child {
    let _ = fs::remove_file(log);
    let stderr = File::create(log).unwrap();
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("SANDPIPER_POOL", "off")
        .env("SANDPIPER_ON_EXIT", "keep")
        .env_remove("DATABASE_URL")
        .env_remove("SANDPIPER_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    command.spawn().unwrap()
}

/// All of them.
pub struct Site {
    pub agent: Process,
    pub planes: Vec<Process>,
    urls: Vec<String>,
    data_dir: TempDir,
}

impl Site {
    /// With so many control planes, more than one of them on PostgreSQL.
    pub async fn start(planes: usize, database: Option<&Postgres>) -> Self {
        let data_dir = tempfile::Builder::new().prefix("sandpiper-test-").tempdir().unwrap();
        testkit::share_templates(data_dir.path(), false);
        let path = |name: &str| data_dir.path().join(name);
        let (socket, host) = (format!("unix:{}", path("host.sock").display()), data_dir.path().display().to_string());
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let arguments = texts(&["host-agent", "--listen", &socket, "--data-dir", &host, "--disk-reserve-mb", "64"]);
        let agent = Process::start(arguments, path("host-agent.log")).await;
        let database = database.map(Postgres::database);
        // All that use it have the same key.
        let token_key = path("token.key");
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&token_key)
            .unwrap()
            .write_all(&[42; 32])
            .unwrap();
        let (mut running, mut urls) = (Vec::new(), Vec::new());
        for number in 0..planes {
            let address = super::building::free_address();
            let directory = path(&format!("plane{number}")).display().to_string();
            let mut arguments =
                texts(&["control-plane", "--listen", &address, "--host-agent", &socket, "--data-dir", &directory]);
            arguments.extend(texts(&["--reconcile-interval-sec", "1", "--orphan-grace-sec", "2"]));
            // Another one settles soon what a killed one had begun, and overtakes what is slow.
            arguments.extend(texts(&["--given-up-after-sec", "10"]));
            if let Some(database) = &database {
                arguments.extend(texts(&["--database-url", database, "--token-key", &token_key.display().to_string()]));
            }
            running.push(Process::start(arguments, path(&format!("plane{number}.log"))).await);
            urls.push(format!("http://{address}"));
        }
        Self { agent, planes: running, urls, data_dir }
    }

    pub fn client(&self) -> Client {
        Client { http: reqwest::Client::new(), urls: self.urls.clone() }
    }

    pub fn inventory(&self) -> Inventory {
        Inventory::take(self.data_dir.path())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.agent.child.kill();
        testkit::end_monitors(self.data_dir.path());
    }
}

/// Calls the control planes of a site.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    urls: Vec<String>,
}

impl Client {
    /// A call of one of them; none where it was not answered, or not to the end.
    pub async fn call(&self, plane: usize, method: &str, path: &str, body: Value) -> Option<Answer> {
        let url = format!("{}{path}", self.urls[plane % self.urls.len()]);
        let request = self.http.request(method.parse().unwrap(), url);
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.ok()?;
        Some(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }
}
