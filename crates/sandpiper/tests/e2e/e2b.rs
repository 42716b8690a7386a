//! The published E2B SDK for Python, unmodified, against a real server: an application's author sets a key and two
//! addresses and expects every method to work, or to say that it is not offered. What the run has seen is written to
//! docs/compatibility-e2b.md, and an empty cell fails it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use testkit::Server;
use tokio::process::Command;

use super::{binary, server};

const LIMIT: Duration = Duration::from_secs(600);

/// What a program sees of a server that has no other routes: neither the guest agent's own nor what is not its owner's.
const HIDDEN: [&str; 8] =
    ["/init", "/clock", "/sync", "/freeze", "/settle", "/shutdown", "/benchmark/spawn", "/session.Session/Output"];

#[derive(Deserialize)]
struct Report {
    version: String,
    failures: Vec<String>,
    methods: BTreeMap<String, String>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

async fn run_sdk() -> Report {
    let server = server(&["--templates", "base"]).await;
    // Clients wait a minute for a sandbox: the image that it comes from is made before.
    server.create(json!({"template": "base"})).await;
    let mut create = Command::new(binary());
    create.args(["key", "create", "application", "--data-dir"]).arg(server.data_dir()).env_remove("DATABASE_URL");
    let key = create.output().await.unwrap();
    assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
    let python = Command::new(root().join("scripts/e2b-sdk.sh")).output().await.unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout).unwrap();
    let mut command = Command::new(python.trim());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/e2b/main.py"));
    command.env("E2B_API_KEY", String::from_utf8(key.stdout).unwrap().trim());
    command.env("E2B_API_URL", server.url()).env("E2B_SANDBOX_URL", server.url());
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the SDK's tests end in time").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(report.failures.is_empty(), "{}\n{said}\n{}", report.failures.join("\n"), server.log());
    report
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "# Compatibility with E2B\n\nMade by the test `e2e::e2b`: every public method of the published Python SDK `e2b` {} \
         that asks a server, with the test that shows that it works, in \
         [sync.py](../crates/sandpiper/tests/e2e/e2b/sync.py) and \
         [asynchronous.py](../crates/sandpiper/tests/e2e/e2b/asynchronous.py), or what is not offered and answered 501. \
         The SDK is unmodified; `E2B_API_KEY`, `E2B_API_URL` and `E2B_SANDBOX_URL` are all that is set.\n\n\
         | Method | Test, or what is not offered |\n|---|---|\n",
        report.version
    );
    for (method, test) in &report.methods {
        let _ = writeln!(text, "| `{method}` | {test} |");
    }
    text
}

#[tokio::test]
async fn every_method_of_the_published_sdk_works_or_says_that_it_is_not_offered() {
    let report = run_sdk().await;
    let untested: Vec<_> =
        report.methods.iter().filter(|(_, test)| test.is_empty()).map(|(method, _)| method).collect();
    assert_eq!(untested, Vec::<&String>::new());
    assert!(report.methods.len() > 200, "the methods were found");
    let path = root().join("docs/compatibility-e2b.md");
    let table = table(&report);
    if std::env::var_os("SANDPIPER_WRITE_DOCS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == table, "docs/compatibility-e2b.md is not what the run has seen: `make compatibility` writes it");
}

/// The status of a call to a sandbox's guest agent.
async fn guest(server: &Server, id: &str, path: &str, token: Option<&str>) -> u16 {
    let mut request = reqwest::Client::new().post(format!("{}{path}", server.url()));
    request = request.header("E2b-Sandbox-Id", id).header("E2b-Sandbox-Port", "49983");
    if let Some(token) = token {
        request = request.header("X-Access-Token", token);
    }
    request.json(&json!({})).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_guest_agent_answers_its_owner_alone_and_never_obeys_a_caller() {
    let server = server(&["--templates", "minimal"]).await;
    let made = server.call("POST", "/v2/sandboxes", json!({"templateID": "minimal"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let (id, token) = (made.body["sandboxID"].as_str().unwrap(), made.body["envdAccessToken"].as_str().unwrap());
    let list = "/process.Process/List";
    assert_eq!(guest(&server, id, list, Some(token)).await, 200);
    assert_eq!(guest(&server, id, list, Some("other")).await, 401);
    assert_eq!(guest(&server, id, list, None).await, 401);
    for path in HIDDEN {
        assert_eq!(guest(&server, id, path, Some(token)).await, 404, "{path}");
    }
    // One of another surface has no guest agent for anybody, and is not seen here.
    let other = server.create(json!({"template": "minimal"})).await;
    assert_eq!(guest(&server, &other, list, Some(token)).await, 404);
    assert_eq!(server.call("GET", &format!("/sandboxes/{other}"), json!(null)).await.status, 404);
    assert_eq!(server.call("DELETE", &format!("/sandboxes/{other}"), json!(null)).await.status, 404);
    assert_eq!(server.call("DELETE", &format!("/sandboxes/{id}"), json!(null)).await.status, 204);
    assert_eq!(guest(&server, id, "/health", None).await, 502);
}
