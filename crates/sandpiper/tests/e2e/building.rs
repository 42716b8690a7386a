//! A server that is still building a template: it answers, and what waits for the template learns how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::wait_for;

use super::binary;
use super::rpc::Role;

const RECIPE: &str = r#"
description = "never built"
suite = "bookworm"
packages = ["bash"]

[defaults]
user = "root"
workdir = "/root"
"#;

/// A server that builds `slow`, with programs of the test's own in the place of the real ones.
struct Building {
    child: Child,
    data_dir: tempfile::TempDir,
    url: String,
    http: reqwest::Client,
}

impl Building {
    /// The build comes to its end when `go` is there, and to no good one.
    async fn start() -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let programs = data_dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        fs::create_dir(data_dir.path().join("recipes")).unwrap();
        fs::write(data_dir.path().join("recipes/slow.toml"), RECIPE).unwrap();
        let go = data_dir.path().join("go");
        let script =
            format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\necho no mirror >&2\nexit 1\n", go.display());
        program(&programs.join("apt-get"), &script);
        let address = free_address();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let child = Command::new(binary())
            .args(["up", "--templates", "slow", "--listen", &address, "--data-dir"])
            .arg(data_dir.path())
            .env("PATH", path)
            .env_remove("DATABASE_URL")
            .stderr(fs::File::create(data_dir.path().join("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { child, data_dir, url: format!("http://{address}"), http: reqwest::Client::new() };
        wait_for("the server to say what it builds", async || {
            assert!(server.child.try_wait().unwrap().is_none(), "it goes on");
            let answer = server.call("GET", "/health", Value::Null).await?;
            let message = answer.1["error"]["message"].as_str()?.to_owned();
            assert_eq!((answer.0, &answer.1["error"]["code"]), (503, &json!("starting")));
            message.contains("slow").then_some(())
        })
        .await;
        server
    }

    /// The status and the body, if it answers.
    async fn call(&self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url)).json(&body);
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }

    /// A capsule of the template, asked for by somebody who does not wait, and its id.
    async fn capsule(&self) -> String {
        tokio::spawn(self.http.post(format!("{}/v1/capsules", self.url)).body(r#"{"template":"slow"}"#).send());
        wait_for("the capsule to be listed", async || {
            let (_, list) = self.call("GET", "/v1/capsules", Value::Null).await?;
            assert_eq!(list[0]["status"].as_str().unwrap_or("pending"), "pending");
            list[0]["id"].as_str().map(str::to_owned)
        })
        .await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.data_dir.path().join("log")).unwrap()
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_for("the server to end", async || child.try_wait().unwrap()).await.code()
    }

    /// What the record of a sandbox says after the server's end.
    async fn record(&self, id: &str) -> Value {
        let database = format!("sqlite:{}", self.data_dir.path().join("sandpiper.db").display());
        let nobody = format!("unix:{}", self.data_dir.path().join("nobody").display());
        let arguments = ["--listen", "127.0.0.1:0", "--database-url", &database, "--host-agent", &nobody];
        let plane = Role::control_plane(&arguments);
        let answer = self.http.get(format!("{}/v1/capsules/{id}", plane.url)).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

fn program(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An address that nobody listens at. The server says where it listens only when it is ready.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_build_that_fails_ends_the_server_and_what_waits_for_it() {
    let mut server = Building::start().await;
    let (status, refused) = server.call("POST", "/v1/sandboxes", json!({"template": "slow"})).await.unwrap();
    assert_eq!((status, &refused["error"]["code"]), (503, &json!("starting")), "{refused}");
    let id = server.capsule().await;
    fs::write(server.data_dir.path().join("go"), "").unwrap();
    assert_eq!(server.exit_code().await, Some(1));
    assert!(server.log().contains("slow is not built") && server.log().contains("no mirror"), "{}", server.log());
    let record = server.record(&id).await;
    assert_eq!(record["status"], "error", "{record}");
    assert!(record["status_reason"].as_str().unwrap().contains("template slow was not built"), "{record}");
}

#[tokio::test]
async fn a_signal_ends_a_server_that_builds_and_what_waits_for_it() {
    let mut server = Building::start().await;
    let id = server.capsule().await;
    assert!(Command::new("kill").arg(server.child.id().to_string()).status().unwrap().success());
    assert_eq!(server.exit_code().await, Some(143));
    let record = server.record(&id).await;
    assert_eq!(record["status"], "error", "{record}");
    assert!(record["status_reason"].as_str().unwrap().contains("the server was told to end"), "{record}");
}
