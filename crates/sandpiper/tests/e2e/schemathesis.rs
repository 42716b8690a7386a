//! Requests made up from the server's OpenAPI document, against a real sandbox. The volume is in the control plane's
//! own tests; here few requests show that a real guest answers nothing undocumented either.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use super::server;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn made_up_requests_reach_a_real_sandbox() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::process::Command::new(root.join("scripts/test-tools.sh")).output().unwrap();
    assert!(tools.status.success(), "{}", String::from_utf8_lossy(&tools.stderr));
    let tools = String::from_utf8(tools.stdout).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("schemathesis.toml");
    std::fs::write(&config, format!("[parameters]\n\"path.id\" = \"{id}\"\n")).unwrap();
    let mut command = Command::new(Path::new(tools.trim()).join("schemathesis"));
    command.arg("--config-file").arg(&config).args(["run", "--no-color", "--warnings", "off"]);
    command.args(["--generation-deterministic", "--suppress-health-check", "all", "--max-examples", "4"]);
    command.args(["--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"]);
    command.args(["--phases", "fuzzing", "--request-timeout", "20"]);
    // What would end the sandbox; what makes as many more as are asked for, where 503 is right when there is no room; and
    // a stream without an end.
    for operation in [
        "destroySandbox",
        "pauseSandbox",
        "stopSandbox",
        "resumeSandbox",
        "createSandbox",
        "forkSandbox",
        "streamEvents",
    ] {
        command.args(["--exclude-operation-id", operation]);
        if let Some(verb) = operation.strip_suffix("Sandbox") {
            command.arg("--exclude-operation-id").arg(format!("{verb}Capsule"));
        }
    }
    command.arg(format!("{}/openapi.json", server.url()));
    command.current_dir(directory.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("schemathesis ends in time").unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", server.log());
    let (code, _) = server.shell(&id, "true").await;
    assert_eq!(code, 0, "the sandbox still works");
}
