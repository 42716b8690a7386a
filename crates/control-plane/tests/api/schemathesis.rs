//! Requests made up from the OpenAPI document, good ones and bad ones: no answer is 5xx or undocumented, and every
//! answer has the documented form. The host is the fake one, so that hundreds of creates cost nothing.

use std::process::Stdio;
use std::time::Duration;

use control_plane::Keys;
use tokio::process::Command;

use crate::fixture::Fixture;
use crate::openapi::tool;

/// For one run, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(110);

/// What it takes for granted and is otherwise here: no WebSocket is asked for, and parts of a form may be named by what
/// no header can hold; days may be too far apart; and domains that may be reached need all else denied: those are 400
/// although the document cannot say so.
const SETTINGS: &str = r#"
[[operations]]
include-operation-id = [
    "execStream", "processStream", "openTerminal", "uploadFile", "streamUpload",
    "execStreamInCapsule", "processStreamInCapsule", "openTerminalInCapsule",
    "uploadFileInCapsule", "streamUploadInCapsule", "getUsage",
    "createSandbox", "createCapsule", "setSandboxNetwork", "setCapsuleNetwork",
]
checks.positive_data_acceptance.enabled = false

# Every field of a form is text.
[[operations]]
include-operation-id = ["uploadFile", "streamUpload", "uploadFileInCapsule", "streamUploadInCapsule"]
checks.negative_data_rejection.enabled = false
checks.positive_data_acceptance.enabled = false
"#;

/// Runs schemathesis with these flags; `settings` come before its other settings. The server asks for a key, so that it
/// also tries what happens without one and with a wrong one, on every operation that the document says needs one.
async fn run(server: &Fixture, settings: &str, flags: &[&str]) {
    let keys = Keys::open(&server.config.store).await.unwrap();
    // Of the owner of what the test made before there was a key.
    let (_, key) = keys.create("schemathesis", Some("".parse().unwrap())).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("schemathesis.toml");
    std::fs::write(&config, format!("{settings}{SETTINGS}")).unwrap();
    let mut command = Command::new(tool("schemathesis"));
    command.arg("--config-file").arg(&config).args(["run", "--no-color", "--warnings", "off"]);
    command.args(["--generation-deterministic", "--suppress-health-check", "all"]);
    // A stream without an end.
    command.args(["--exclude-operation-id", "streamEvents"]);
    command
        .args(["--header", &format!("X-API-Key: {key}"), "--request-timeout", "10", "--continue-on-failure"])
        .args(flags)
        .arg(server.url("/openapi.json"));
    command.current_dir(directory.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("schemathesis ends in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("generated"), "it made requests: {said}");
}

#[tokio::test]
async fn sandboxes_that_come_and_go() {
    let server = Fixture::start().await;
    // A record outlives its sandbox, and a sandbox that is there may lack the file that is asked for.
    let by_contract = "use_after_free,ensure_resource_availability";
    run(&server, "", &["--max-examples", "8", "--exclude-checks", by_contract]).await;
    let calls = server.host.state().calls.clone();
    for method in ["create", "destroy", "pause"] {
        assert!(calls.iter().any(|call| call.starts_with(method)), "{method} was reached");
    }
}

#[tokio::test]
async fn a_sandbox_that_is_running() {
    let server = Fixture::start().await;
    let settings = format!("[parameters]\n\"path.id\" = \"{}\"\n", server.create().await);
    let mut flags = vec!["--max-examples", "20", "--phases", "examples,coverage,fuzzing"];
    for operation in [
        "createSandbox",
        "destroySandbox",
        "pauseSandbox",
        "stopSandbox",
        "resumeSandbox",
        "createCapsule",
        "destroyCapsule",
        "pauseCapsule",
        "stopCapsule",
        "resumeCapsule",
        "forkSandbox",
        "forkCapsule",
    ] {
        flags.extend(["--exclude-operation-id", operation]);
    }
    run(&server, &settings, &flags).await;
    let calls = server.host.state().calls.clone();
    assert!(!server.host.state().files.is_empty(), "files were written");
    for method in ["exec", "read", "benchmark"] {
        assert!(calls.iter().any(|call| call.starts_with(method)), "{method} was reached");
    }
}
