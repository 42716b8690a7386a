//! The published E2B SDKs, unmodified, against a real server: an application's author sets a key and two addresses, or a
//! key and a domain, and expects every method to work, or to say that it is not offered. What the run has seen is written
//! to docs/compatibility-e2b.md, and an empty cell fails it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
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
    /// The tests that run in both modes.
    routed: Vec<String>,
}

/// How a program is told where everything is.
#[derive(Clone, Copy)]
enum Mode {
    /// One address for the API and all sandboxes, in the clear.
    SingleOrigin,
    /// A domain, with HTTPS.
    Domain,
}

/// What the server says that programs need for its domain.
fn announced(server: &Server, variable: &str) -> String {
    let (log, name) = (server.log(), format!("{variable}="));
    let told = log.lines().find_map(|line| line.trim().strip_prefix(&name));
    told.and_then(|told| told.split_whitespace().next()).expect("the server says it at its start").to_owned()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where the pinned SDKs are, or others.
async fn installed(which: &[&str]) -> PathBuf {
    let found = Command::new(root().join("scripts/e2b-sdk.sh")).args(which).output().await.unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().trim().into()
}

/// The programs, and what runs each.
const PROGRAMS: [(&str, &str); 2] = [("python", "main.py"), ("node", "sdk.mjs")];

/// A server that asks for a key, and SDKs to call it with.
struct Site {
    server: Server,
    key: String,
    packages: PathBuf,
}

impl Site {
    async fn start(packages: PathBuf) -> Self {
        let server = server(&["--templates", "base", "--domain", "sbx.localhost", "--domain-port", "0"]).await;
        // Clients wait a minute for a sandbox: the image that it comes from is made before.
        server.create(json!({"template": "base"})).await;
        let mut create = Command::new(binary());
        create.args(["key", "create", "application", "--data-dir"]).arg(server.data_dir()).env_remove("DATABASE_URL");
        let key = create.output().await.unwrap();
        assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
        Self { server, key: String::from_utf8(key.stdout).unwrap().trim().to_owned(), packages }
    }

    async fn run(&self, mode: Mode, (program, tests): (&str, &str)) -> Report {
        let Self { server, key, packages } = self;
        let mut command = Command::new(packages.join("bin").join(program));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/e2b").join(tests));
        command.env("E2B_API_KEY", key);
        match mode {
            Mode::SingleOrigin => command.env("E2B_API_URL", server.url()).env("E2B_SANDBOX_URL", server.url()),
            Mode::Domain => command.arg("--routed").env_remove("E2B_API_URL").env_remove("E2B_SANDBOX_URL"),
        };
        for variable in ["E2B_DOMAIN", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            command.env(variable, announced(server, variable));
        }
        command.env("E2B_PACKAGES", packages).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the SDK's tests end in time").unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert!(report.failures.is_empty(), "{}\n{said}\n{}", report.failures.join("\n"), server.log());
        eprintln!("{said}");
        report
    }
}

impl Report {
    fn untested(&self) -> Vec<&str> {
        self.methods.iter().filter(|(_, test)| test.is_empty()).map(|(method, _)| method.as_str()).collect()
    }
}

fn table(python: &Report, javascript: &Report) -> String {
    let mut text = "# Compatibility with E2B\n\nMade by the test `e2e::e2b`: every public method of the published SDKs \
                    that asks a server, with the test that shows that it works, or what is not offered and answered 501. \
                    The SDKs are unmodified; `E2B_API_KEY`, and `E2B_API_URL` and `E2B_SANDBOX_URL` or `E2B_DOMAIN` (with \
                    what makes its certificates believed) are all that is set. Tests with a \u{2022} run in both ways.\n"
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
            let mark = if report.routed.contains(test) { " \u{2022}" } else { "" };
            let _ = writeln!(text, "| `{method}` | {test}{mark} |");
        }
    }
    text
}

#[tokio::test]
async fn every_method_of_the_published_sdks_works_or_says_that_it_is_not_offered() {
    let site = Site::start(installed(&[]).await).await;
    let [python, javascript] = PROGRAMS;
    let (python, javascript) =
        (site.run(Mode::SingleOrigin, python).await, site.run(Mode::SingleOrigin, javascript).await);
    for report in [&python, &javascript] {
        assert_eq!(report.untested(), Vec::<&str>::new());
    }
    assert!(python.methods.len() > 200 && javascript.methods.len() > 95, "the methods were found");
    let path = root().join("docs/compatibility-e2b.md");
    let table = table(&python, &javascript);
    if std::env::var_os("SANDPIPER_WRITE_DOCS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == table, "docs/compatibility-e2b.md is not what the run has seen: `make compatibility` writes it");
}

#[tokio::test]
async fn a_domain_alone_is_enough_for_the_sdks() {
    let site = Site::start(installed(&[]).await).await;
    for program in PROGRAMS {
        site.run(Mode::Domain, program).await;
    }
}

#[tokio::test]
async fn the_newest_sdks_work_as_the_pinned_ones_do() {
    let (pinned, newest) = (installed(&[]).await, installed(&["newest"]).await);
    if newest == pinned {
        eprintln!("the newest SDKs are the pinned ones, which another test runs");
        return;
    }
    let site = Site::start(newest).await;
    for program in PROGRAMS {
        let report = site.run(Mode::SingleOrigin, program).await;
        eprintln!("{} {}; new, and not tested: {:?}", program.0, report.version, report.untested());
    }
}

#[tokio::test]
async fn a_server_is_measured_through_the_sdks_and_nothing_is_left() {
    let server = server(&["--templates", "base"]).await;
    let mut bench = Command::new(binary());
    bench.args(["bench", "e2b", "--json", "--url", server.url(), "--sdk"]).arg(installed(&[]).await);
    bench.args(["--runs", "2", "--megabytes", "4", "--streams", "30", "--hold-sec", "3"]);
    let output = bench.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(output.status.success(), "{report}: {said}");
    let median = |key: &str| {
        let row = report["rows"].as_array().unwrap().iter().find(|row| row["key"] == key);
        row.unwrap_or_else(|| panic!("{key} is missing: {report}"))["median"].as_f64().unwrap()
    };
    for sdk in ["python", "javascript"] {
        for figure in ["create", "create_by_eight", "upload", "download"] {
            assert!(median(&format!("{sdk}_{figure}")) > 0.0, "{sdk} {figure}");
        }
        let streams = ["streams", "streams_lost"].map(|figure| median(&format!("{sdk}_{figure}")));
        assert_eq!(streams, [30.0, 0.0], "{sdk}");
    }
    assert!(median("copy_in_guest") > 0.0 && median("boot") > median("python_create"), "{report}");
    let left = server.call("GET", "/v1/sandboxes?status=running&status=paused", Value::Null).await;
    assert_eq!(left.body, json!([]));
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
