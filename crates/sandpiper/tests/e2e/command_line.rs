//! The command line against a running server.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::{binary, server};

fn sandpiper(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env("SANDPIPER_URL", server.url()).args(arguments);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn live_sandboxes(server: &Server) -> usize {
    let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
    let is_live = |row: &&Value| !["stopped", "error"].contains(&row["status"].as_str().unwrap());
    list.as_array().unwrap().iter().filter(is_live).count()
}

#[tokio::test]
async fn run_passes_output_and_exit_code_through_and_removes_the_sandbox() {
    let server = server(&[]).await;
    let before = server.inventory();
    let script = "printf 'a\\377b'; echo oops >&2; exit 42";
    let result = output(sandpiper(&server, &["run", "minimal", "--", "sh", "-c", script])).await;
    assert_eq!(result.status.code(), Some(42), "{}", String::from_utf8_lossy(&result.stderr));
    assert_eq!(result.stdout, b"a\xffb", "exact bytes");
    assert!(String::from_utf8_lossy(&result.stderr).contains("oops"));
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
    assert_eq!(live_sandboxes(&server).await, 0);
}

#[tokio::test]
async fn run_shows_output_as_it_comes_and_ctrl_c_removes_the_sandbox() {
    let server = server(&[]).await;
    let before = server.inventory();
    let script = "echo first; sleep 1000";
    let mut child =
        sandpiper(&server, &["run", "minimal", "--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let first = tokio::task::spawn_blocking(move || {
        let mut line = [0; 6];
        stdout.read_exact(&mut line).unwrap();
        line
    });
    assert_eq!(&first.await.unwrap(), b"first\n", "before the command ends");
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let status = wait_for("the command to end", async || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(130));
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
}

#[tokio::test]
async fn ctrl_c_while_the_sandbox_is_being_created_removes_it_too() {
    let server = server(&[]).await;
    let before = server.inventory();
    let mut child = sandpiper(&server, &["run", "minimal", "--", "sleep", "1000"]).spawn().unwrap();
    wait_for("the virtual machine to start", async || {
        (!server.inventory().of_kind("monitor").is_empty()).then_some(())
    })
    .await;
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let status = wait_for("the command to end", async || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(130));
    wait_for("the sandbox to be gone", async || server.inventory().beyond(&before).is_empty().then_some(())).await;
}

#[tokio::test]
async fn sandboxes_are_managed_by_hand() {
    let server = server(&[]).await;
    let run = async |arguments: &[&str]| {
        let result = output(sandpiper(&server, arguments)).await;
        assert!(result.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&result.stderr));
        String::from_utf8(result.stdout).unwrap()
    };
    let id = run(&["sandbox", "create", "minimal", "--metadata", "app=a b"]).await.trim().to_owned();
    let listed: Value = serde_json::from_str(&run(&["sandbox", "ls", "--json"]).await).unwrap();
    assert_eq!((&listed[0]["id"], &listed[0]["status"]), (&json!(id), &json!("running")));
    assert!(run(&["sandbox", "ls"]).await.contains(&id));
    for (filter, is_found) in [
        (["--metadata", "app=a b"], true),
        (["--metadata", "app=other"], false),
        (["--status", "running"], true),
        (["--status", "paused"], false),
    ] {
        assert_eq!(run(&[&["sandbox", "ls"][..], &filter].concat()).await.contains(&id), is_found, "{filter:?}");
    }

    let local = tempfile::tempdir().unwrap();
    let (there, back) = (local.path().join("there"), local.path().join("back"));
    std::fs::File::create(&there).unwrap().write_all(b"exact \xff\x00 bytes").unwrap();
    let remote = format!("{id}:/srv/copied");
    run(&["sandbox", "cp", there.to_str().unwrap(), &remote]).await;
    run(&["sandbox", "cp", &remote, back.to_str().unwrap()]).await;
    assert_eq!(std::fs::read(&back).unwrap(), b"exact \xff\x00 bytes");

    assert_eq!(run(&["sandbox", "exec", &id, "--", "echo", "in", "the", "sandbox"]).await, "in the sandbox\n");
    run(&["sandbox", "pause", &id]).await;
    let refused = output(sandpiper(&server, &["sandbox", "exec", &id, "--", "true"])).await;
    assert!(!refused.status.success());
    run(&["sandbox", "resume", &id]).await;
    run(&["sandbox", "rm", &id]).await;
    assert_eq!(live_sandboxes(&server).await, 0);
}

#[tokio::test]
async fn doctor_finds_this_machine_fit() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.args(["doctor", "--json", "--data-dir"]).arg(data_dir.path());
    let result = output(command).await;
    let text = String::from_utf8(result.stdout).unwrap();
    assert!(result.status.success(), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(text.contains("qemu") && report.is_object() | report.is_array(), "{text}");
}

#[tokio::test]
async fn templates_are_listed_without_a_server() {
    let data_dir = tempfile::tempdir().unwrap();
    testkit::share_templates(data_dir.path(), false);
    let mut command = Command::new(binary());
    command.args(["template", "ls", "--json", "--data-dir"]).arg(data_dir.path());
    let result = output(command).await;
    let list: Value = serde_json::from_slice(&result.stdout).unwrap();
    let minimal = list.as_array().unwrap().iter().find(|entry| entry["name"] == "minimal").unwrap();
    assert_eq!(minimal["status"], "built", "{list}");
}
