//! Snapshots, forks and calls that resume, over the REST API and the command line, with real virtual machines.

use std::collections::HashSet;
use std::process::Command;

use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::{binary, server};

/// Writes a number that only lives in a process's memory, and one that is in a file.
const REMEMBER: &str = "mkfifo /tmp/ask /tmp/answer
    (n=0; while read -r _ </tmp/ask; do n=$((n + 1)); echo $n >/tmp/answer; done) >/dev/null 2>&1 &
    echo before >/root/file";

/// Asks the process how often it was asked.
const ASK: &str = "echo >/tmp/ask; cat /tmp/answer";

async fn sandpiper(server: &Server, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(binary());
    command.env("SANDPIPER_URL", server.url()).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

async fn status(server: &Server, id: &str) -> String {
    let row = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    row.body["status"].as_str().unwrap().to_owned()
}

async fn pause(server: &Server, id: &str) {
    let paused = server.call("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).await;
    assert_eq!(paused.status, 200, "{}", paused.body);
}

#[tokio::test]
async fn a_snapshot_is_gone_on_from_as_often_as_one_likes_and_its_sandbox_goes_on_too() {
    let server = server(&[]).await;
    let parent = server.create(json!({})).await;
    assert_eq!(server.shell(&parent, REMEMBER).await.0, 0);
    assert_eq!(server.shell(&parent, ASK).await.1, "1\n");
    let (is_made, said) = sandpiper(&server, &["snapshot", "create", &parent, "origin"]).await;
    assert_eq!((is_made, said.as_str()), (true, "origin\n"));
    assert_eq!(server.shell(&parent, ASK).await.1, "2\n", "it goes on as it was");
    server.shell(&parent, "echo after >/root/file").await;

    let wish = || json!({"snapshot": "origin"});
    let (one, two) = tokio::join!(server.create(wish()), server.create(wish()));
    for child in [&one, &two] {
        assert_eq!(server.shell(child, ASK).await.1, "2\n", "memory is that of the snapshot");
        assert_eq!(server.shell(child, "cat /root/file").await.1, "before\n", "and so is the disk");
        assert_eq!(server.shell(child, "hostname").await.1.trim(), child);
    }
    assert_eq!(server.shell(&parent, "cat /root/file").await.1, "after\n");
    let (is_removed, said) = sandpiper(&server, &["snapshot", "rm", "origin"]).await;
    assert!(!is_removed && said.contains(&one) && said.contains(&two), "{said}");
    for id in [&one, &two, &parent] {
        assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    }
    // It needs nothing of what it was captured from.
    let third = server.create(wish()).await;
    assert_eq!(server.shell(&third, ASK).await.1, "2\n");
    server.call("DELETE", &format!("/v1/sandboxes/{third}"), Value::Null).await;
    assert_eq!(sandpiper(&server, &["snapshot", "rm", "origin"]).await, (true, "origin\n".to_owned()));
    assert_eq!(std::fs::read_dir(server.data_dir().join("snapshots")).unwrap().count(), 0, "nothing of it is left");
}

#[tokio::test]
async fn children_of_a_running_and_of_a_paused_sandbox_differ_where_they_must() {
    let server = server(&[]).await;
    let parent = server.create(json!({"metadata": {"app": "web"}})).await;
    assert_eq!(server.shell(&parent, REMEMBER).await.0, 0);
    for (count, expected) in [(3, "running"), (1, "paused")] {
        if expected == "paused" {
            pause(&server, &parent).await;
        }
        let forked = server.call("POST", &format!("/v1/sandboxes/{parent}/fork"), json!({"count": count})).await;
        assert_eq!(forked.status, 201, "{}", forked.body);
        let children = forked.body.as_array().unwrap();
        let mut seen = HashSet::new();
        for child in children {
            let id = child["id"].as_str().unwrap();
            assert_eq!(child["metadata"], json!({"app": "web"}));
            let (code, said) = server.shell(id, "cat /proc/sys/kernel/random/uuid /etc/machine-id; hostname").await;
            assert_eq!(code, 0);
            assert!(said.lines().all(|line| seen.insert(line.to_owned())), "the same in two of them: {said}");
            assert_eq!(server.shell(id, "cat /root/file").await.1, "before\n");
            assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
        }
        assert_eq!((children.len(), status(&server, &parent).await.as_str()), (count, expected));
    }
    assert_eq!(std::fs::read_dir(server.data_dir().join("snapshots")).unwrap().count(), 0, "the hidden ones are gone");
}

#[tokio::test]
async fn a_paused_sandbox_is_resumed_by_the_call_that_needs_it() {
    let server = server(&[]).await;
    let id = server.create(json!({"auto_resume": true, "on_timeout": "pause", "timeout_sec": 2})).await;
    assert_eq!(server.shell(&id, REMEMBER).await.0, 0);
    for expected in ["1\n", "2\n"] {
        wait_for("the sandbox to expire", async || (status(&server, &id).await == "paused").then_some(())).await;
        assert_eq!(server.shell(&id, ASK).await.1, expected);
        assert_eq!(status(&server, &id).await, "running");
    }
}
