//! The published `wrenn` SDK, unmodified, against a real server: an application's author sets three variables and expects
//! every method to work. What the run has seen is written to docs/compatibility.md, and an empty cell fails it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::process::Command;

use super::{binary, server};

const LIMIT: Duration = Duration::from_secs(400);

/// What an application may get to see, by the contract: the call, what it is answered with when all is well, and with
/// what else a real server can be made to answer it.
const STATUSES: [(&str, &[u16]); 22] = [
    ("POST /v1/capsules", &[201, 400, 404]),
    ("GET /v1/capsules", &[200, 401]),
    ("GET /v1/capsules/{id}", &[200, 404]),
    ("DELETE /v1/capsules/{id}", &[204, 404]),
    ("POST /v1/capsules/{id}/pause", &[200, 404, 409]),
    ("POST /v1/capsules/{id}/resume", &[200, 404, 409]),
    ("POST /v1/capsules/{id}/ping", &[204, 404, 409]),
    ("GET /v1/capsules/stats", &[200, 400]),
    ("GET /v1/capsules/usage", &[200, 400]),
    ("GET /v1/capsules/{id}/metrics", &[200, 400, 404]),
    ("POST /v1/snapshots", &[201, 400, 404, 409]),
    ("GET /v1/snapshots", &[200]),
    ("DELETE /v1/snapshots/{name}", &[204, 403, 404, 409]),
    ("POST /v1/capsules/{id}/exec", &[200, 202, 400, 404, 504]),
    ("GET /v1/capsules/{id}/processes", &[200, 404]),
    ("DELETE /v1/capsules/{id}/processes/{process}", &[204, 404]),
    ("POST /v1/capsules/{id}/files/write", &[204, 404]),
    ("POST /v1/capsules/{id}/files/read", &[200, 400, 404]),
    ("POST /v1/capsules/{id}/files/list", &[200, 400, 404]),
    ("POST /v1/capsules/{id}/files/mkdir", &[200]),
    ("POST /v1/capsules/{id}/files/remove", &[204, 404]),
    ("POST /v1/capsules/{id}/files/stream/write", &[204]),
];

/// What a slow machine is answered instead: it is neither asked for nor written down.
const OCCASIONAL: [&str; 4] = [
    "POST /v1/capsules 202",
    "POST /v1/capsules/{id}/pause 202",
    "POST /v1/capsules/{id}/resume 202",
    "POST /v1/snapshots 202",
];

/// Statuses that need a host that fails: shown with one that is a script.
const ELSEWHERE: [(&str, &str); 4] = [
    ("202 of create, pause, resume", "work_that_takes_longer_is_answered_with_how_far_it_is_and_goes_on"),
    ("409, 501, 502, 503, 504, 507 of a host that fails", "errors_have_the_codes_that_clients_of_capsules_know"),
    ("413 of files/write", "large_files_have_no_limit_on_the_stream_routes"),
    ("409 of files/mkdir", "directories_are_listed_made_and_removed"),
];

#[derive(Deserialize)]
struct Report {
    version: String,
    failures: Vec<String>,
    methods: BTreeMap<String, Vec<String>>,
    statuses: BTreeMap<String, Vec<String>>,
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

async fn run_sdk() -> Report {
    let server = server(&["--templates", "minimal-ubuntu,code-runner-beta"]).await;
    // Clients wait half a minute for a capsule: the image that it comes from is made before.
    server.create(json!({"template": "code-runner-beta"})).await;
    let mut create = Command::new(binary());
    create.args(["key", "create", "application", "--data-dir"]).arg(server.data_dir()).env_remove("DATABASE_URL");
    let key = create.output().await.unwrap();
    assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
    let python = Command::new(root().join("scripts/wrenn-sdk.sh")).output().await.unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let python = String::from_utf8(python.stdout).unwrap();
    let mut command = Command::new(python.trim());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/wrenn_sdk.py"));
    command.env("WRENN_API_KEY", String::from_utf8(key.stdout).unwrap().trim()).env("WRENN_BASE_URL", server.url());
    // Names below `localhost` are this machine's own, which an address has none below itself.
    let port = server.url().rsplit(':').next().unwrap();
    command.env("WRENN_PROXY_DOMAIN", format!("localhost:{port}"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the SDK's tests end in time").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(report.failures.is_empty(), "{}\n{said}\n{}", report.failures.join("\n"), server.log());
    report
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "# Compatibility\n\nMade by the test `e2e::wrenn`: every public method of the published Python SDK `wrenn` {} and \
         every status that the API has for it, with the test that produced it, in \
         [wrenn_sdk.py](../crates/sandpiper/tests/e2e/wrenn_sdk.py). The SDK is unmodified; `WRENN_API_KEY`, \
         `WRENN_BASE_URL` and `WRENN_PROXY_DOMAIN` are all that is set.\n\n## Methods\n\n| Method | Test |\n|---|---|\n",
        report.version
    );
    for (method, tests) in &report.methods {
        let _ = writeln!(text, "| `{method}` | {} |", tests.first().map_or("", String::as_str));
    }
    text.push_str("\n## Statuses\n\n| Call | Status | Test |\n|---|---|---|\n");
    for (answer, tests) in report.statuses.iter().filter(|(answer, _)| !OCCASIONAL.contains(&answer.as_str())) {
        let (call, status) = answer.rsplit_once(' ').unwrap();
        let _ = writeln!(text, "| `{call}` | {status} | {} |", tests.first().map_or("", String::as_str));
    }
    text.push_str(
        "\nWith a host that fails on purpose, in `control_plane::api::capsules`:\n\n| Status | Test |\n|---|---|\n",
    );
    for (status, test) in ELSEWHERE {
        let _ = writeln!(text, "| {status} | {test} |");
    }
    text
}

fn expected_statuses() -> BTreeSet<String> {
    STATUSES.iter().flat_map(|(call, statuses)| statuses.iter().map(move |status| format!("{call} {status}"))).collect()
}

/// Answers that the contract does not have.
fn surprises(report: &Report) -> Vec<&String> {
    let expected = expected_statuses();
    let is_known = |answer: &String| expected.contains(answer) || OCCASIONAL.contains(&answer.as_str());
    report.statuses.keys().filter(|answer| !is_known(answer)).collect()
}

/// Methods without a test, and answers that no test has seen.
fn gaps(report: &Report) -> Vec<String> {
    let untested = report.methods.iter().filter(|(_, tests)| tests.is_empty()).map(|(method, _)| method.clone());
    let unseen = expected_statuses().into_iter().filter(|answer| !report.statuses.contains_key(answer));
    let script = std::fs::read_to_string(root().join("crates/control-plane/tests/api/capsules.rs")).unwrap();
    let gone = ELSEWHERE
        .iter()
        .filter(|(_, test)| !script.contains(&format!("fn {test}(")))
        .map(|(_, test)| (*test).to_owned());
    untested.chain(unseen).chain(gone).collect()
}

#[tokio::test]
async fn every_method_of_the_published_sdk_works() {
    let report = run_sdk().await;
    assert_eq!(gaps(&report), Vec::<String>::new());
    assert_eq!(surprises(&report), Vec::<&String>::new());
    assert!(report.methods.len() > 100, "the methods were found");
    let path = root().join("docs/compatibility.md");
    let table = table(&report);
    if std::env::var_os("SANDPIPER_WRITE_DOCS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == table, "docs/compatibility.md is not what the run has seen: `make compatibility` writes it");
}
