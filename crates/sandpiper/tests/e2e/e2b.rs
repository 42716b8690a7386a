//! The published E2B SDKs, unmodified, against a real server: an application's author sets a key and two addresses and
//! expects every method to work, or to say that it is not offered. What the run has seen is written to
//! docs/compatibility-e2b.md, and an empty cell fails it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
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

/// Where the SDKs are.
async fn installed() -> PathBuf {
    let found = Command::new(root().join("scripts/e2b-sdk.sh")).output().await.unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().trim().into()
}

async fn run_sdk(server: &Server, key: &str, program: PathBuf, tests: &str, packages: &Path) -> Report {
    let mut command = Command::new(program);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/e2b").join(tests));
    command.env("E2B_API_KEY", key).env("E2B_API_URL", server.url()).env("E2B_SANDBOX_URL", server.url());
    command.env("E2B_PACKAGES", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the SDK's tests end in time").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(report.failures.is_empty(), "{}\n{said}\n{}", report.failures.join("\n"), server.log());
    report
}

fn table(python: &Report, javascript: &Report) -> String {
    let mut text = "# Compatibility with E2B\n\nMade by the test `e2e::e2b`: every public method of the published SDKs \
                    that asks a server, with the test that shows that it works, or what is not offered and answered 501. \
                    The SDKs are unmodified; `E2B_API_KEY`, `E2B_API_URL` and `E2B_SANDBOX_URL` are all that is set.\n"
        .to_owned();
    let tests = |file: &str| format!("[{file}](../crates/sandpiper/tests/e2e/e2b/{file})");
    for (name, report, tests) in [
        ("Python", python, format!("{} and {}", tests("sync.py"), tests("asynchronous.py"))),
        ("JavaScript", javascript, tests("sdk.mjs")),
    ] {
        let version = &report.version;
        let _ = write!(text, "\n## {name}: `e2b` {version}\n\nTests are in {tests}.\n\n");
        text.push_str("| Method | Test, or what is not offered |\n|---|---|\n");
        for (method, test) in &report.methods {
            let _ = writeln!(text, "| `{method}` | {test} |");
        }
    }
    text
}

#[tokio::test]
async fn every_method_of_the_published_sdks_works_or_says_that_it_is_not_offered() {
    let server = server(&["--templates", "base"]).await;
    // Clients wait a minute for a sandbox: the image that it comes from is made before.
    server.create(json!({"template": "base"})).await;
    let mut create = Command::new(binary());
    create.args(["key", "create", "application", "--data-dir"]).arg(server.data_dir()).env_remove("DATABASE_URL");
    let key = create.output().await.unwrap();
    assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
    let key = String::from_utf8(key.stdout).unwrap();
    let packages = installed().await;
    let run = async |program: &str, tests: &str| {
        run_sdk(&server, key.trim(), packages.join("bin").join(program), tests, &packages).await
    };
    let (python, javascript) = (run("python", "main.py").await, run("node", "sdk.mjs").await);
    let methods = || python.methods.iter().chain(&javascript.methods);
    let untested: Vec<_> = methods().filter(|(_, test)| test.is_empty()).map(|(method, _)| method).collect();
    assert_eq!(untested, Vec::<&String>::new());
    assert!(python.methods.len() > 200 && javascript.methods.len() > 70, "the methods were found");
    let path = root().join("docs/compatibility-e2b.md");
    let table = table(&python, &javascript);
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
