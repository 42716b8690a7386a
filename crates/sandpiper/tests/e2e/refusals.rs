//! What cannot be done is refused with the right status and a message that helps, and leaves nothing.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Server, ServerOptions};

use super::{binary, server};

/// Creates a sandbox in vain.
async fn check(server: &Server, body: Value, status: u16, code: &str, words: &str) {
    let before = server.inventory();
    let rows = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
    let answer = server.call("POST", "/v1/sandboxes", body.clone()).await;
    let error = &answer.body["error"];
    assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{body} {answer:?}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{body}: {message}");
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new(), "{body} left something");
    assert_eq!(server.call("GET", "/v1/sandboxes", Value::Null).await.body, rows, "{body} left a row");
}

#[tokio::test]
async fn requests_that_cannot_be_met() {
    let server = server(&[]).await;
    let bad = "invalid_request";
    check(&server, json!({ "template": "nosuch" }), 404, "not_found", "nosuch").await;
    check(&server, json!({ "template": "../../etc" }), 400, bad, "template name").await;
    check(&server, json!({ "template": "a/b" }), 400, bad, "template name").await;
    check(&server, json!({ "vcpus": -1 }), 400, bad, "between 1 and 32").await;
    check(&server, json!({ "vcpus": 33 }), 400, bad, "between 1 and 32").await;
    check(&server, json!({ "memory_mb": -512 }), 400, bad, "between 128 and 65536").await;
    check(&server, json!({ "memory_mb": 1_000_000_000 }), 400, bad, "between 128 and 65536").await;
    check(&server, json!({ "memory_mb": 65536 }), 503, "unavailable", "no memory").await;
}

#[tokio::test]
async fn a_full_disk() {
    let server = server(&["--disk-reserve-mb", "1000000000"]).await;
    check(&server, json!({}), 507, "no_space", "no disk space").await;
}

#[tokio::test]
async fn a_guest_that_does_not_answer_in_time() {
    let server = server(&["--boot-timeout-sec", "1"]).await;
    // More virtual processors than a small machine brings up in a second, with virtualisation or without.
    check(&server, json!({ "vcpus": 32 }), 504, "timeout", "did not answer within 1 second").await;
}

#[tokio::test]
async fn a_template_that_is_no_file_system() {
    let options = ServerOptions { own_templates: true, ..ServerOptions::default() };
    let server = Server::start(binary(), options).await;
    let image = server.data_dir().join("templates/minimal/current/rootfs.ext4");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    check(&server, json!({}), 409, "conflict", "template build minimal").await;
}

#[tokio::test]
async fn a_file_system_that_cannot_be_mounted() {
    let options = ServerOptions { own_templates: true, ..ServerOptions::default() };
    let server = Server::start(binary(), options).await;
    let before = server.inventory();
    let image = server.data_dir().join("templates/minimal/current/rootfs.ext4");
    let image = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    // The group descriptors behind the superblock: what the host looks at is a file system, and it is none.
    image.write_all_at(&[0xff; 8192], 4096).unwrap();
    let answer = server.call("POST", "/v1/sandboxes", json!({})).await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("sandpiper: fatal:"), "the guest's last words are told: {message}");
    assert_eq!(server.inventory().beyond(&before), Vec::<String>::new());
}

#[tokio::test]
async fn of_two_conflicting_calls_at_once_one_wins() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let path = format!("/v1/sandboxes/{id}/pause");
    let (one, two) = tokio::join!(server.call("POST", &path, Value::Null), server.call("POST", &path, Value::Null));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!(row.body["status"], "paused");
}

/// Runs `sandpiper up` where it cannot start; returns exit code and standard error.
fn fail_to_start(data_dir: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    command.args(["up", "--data-dir"]).arg(data_dir).args(arguments.iter().map(OsString::from));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn servers_that_cannot_start_say_what_to_do() {
    let running = server(&[]).await;
    let address = running.url().strip_prefix("http://").unwrap().to_owned();
    let data_dir = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], code: i32, words: &str| {
        let (status, stderr) = fail_to_start(data_dir.path(), arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    };
    check(&["--listen", &address], 1, "Choose another address with --listen");
    check(&["--listen", "0.0.0.0:0"], 64, "--insecure-no-auth");
    check(&["--listen", "127.0.0.1:0", "--qemu", "/nonexistent/qemu"], 1, "make setup");
    check(&["--listen", "127.0.0.1:0", "--templates", "../x"], 2, "template name");
    check(&["--listen", "127.0.0.1:0", "--templates", "nosuch"], 1, "known are");
    let (code, stderr) = fail_to_start(running.data_dir(), &["--listen", "127.0.0.1:0"]);
    assert!(code == Some(1) && stderr.contains("another server is using"), "{stderr}");
    assert!(running.inventory().of_kind("monitor").is_empty());
}

#[tokio::test]
async fn kvm_by_force_is_refused_where_there_is_none() {
    let Some(obstacle) = vmm::kvm_obstacle() else {
        // This machine has KVM, so forcing it must work and be what guests run on.
        let server = server(&["--accel", "kvm"]).await;
        assert_eq!(server.call("GET", "/health", Value::Null).await.body["accelerator"], "kvm");
        server.create(json!({})).await;
        return;
    };
    let data_dir = tempfile::tempdir().unwrap();
    let (code, stderr) = fail_to_start(data_dir.path(), &["--listen", "127.0.0.1:0", "--accel", "kvm"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&obstacle), "{stderr}");
}
