//! Forks: all children or none, and a parent that goes on as it was.

use std::time::Duration;

use connectrpc::ErrorCode;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

async fn live(server: &Fixture) -> usize {
    let (_, list) = server.get("/v1/sandboxes?status=pending,running,paused,error,stopping").await;
    list.as_array().unwrap().len()
}

#[tokio::test]
async fn children_are_what_their_parent_is_and_nothing_else_is_left() {
    let server = Fixture::start().await;
    let wish =
        json!({"vcpus": 2, "timeout_sec": 77, "on_timeout": "pause", "auto_resume": true, "metadata": {"app": "web"}});
    let (_, parent) = server.post("/v1/sandboxes", wish).await;
    let id = parent["id"].as_str().unwrap();
    for (body, count, status) in
        [(json!({}), 1, "running"), (json!({"count": 3}), 3, "running"), (json!({"count": 2}), 2, "paused")]
    {
        if status == "paused" {
            server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
        }
        let (answered, children) = server.post(&format!("/v1/sandboxes/{id}/fork"), body).await;
        assert_eq!(answered, 201, "{children}");
        let children = children.as_array().unwrap();
        assert_eq!(children.len(), count);
        for child in children {
            assert_ne!(child["id"], parent["id"]);
            assert_eq!(child["status"], "running");
            for member in
                ["vcpus", "memory_mb", "disk_mb", "template", "timeout_sec", "on_timeout", "auto_resume", "metadata"]
            {
                assert_eq!(child[member], parent[member], "{member}");
            }
        }
        assert_eq!(server.status(id).await, status, "the parent goes on as it was");
        assert!(server.host.state().snapshots.is_empty(), "the hidden snapshot is gone");
    }
    assert_eq!(server.get("/v1/snapshots?type=snapshot").await.1, json!([]));
    let (status, children) = server.post(&format!("/v1/capsules/{id}/fork"), json!({"count": 2})).await;
    assert_eq!((status.as_u16(), &children[1]["disk_size_mb"]), (201, &json!(5120)));
}

#[tokio::test]
async fn a_count_has_limits_and_a_parent_must_be_there() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for count in [json!(0), json!(101), json!(-1), json!(1.5), json!("2")] {
        let (status, body) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": count})).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{count}");
    }
    server.delete(&id).await;
    let (status, body) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"));
    assert_eq!(live(&server).await, 0, "no child is left");
}

#[tokio::test]
async fn where_one_child_cannot_be_made_none_is() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (failure, status) in
        [(ErrorCode::ResourceExhausted, 507), (ErrorCode::Internal, 502), (ErrorCode::DeadlineExceeded, 504)]
    {
        server.host.fail("create", failure, "no room");
        let (answered, body) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": 20})).await;
        assert_eq!(answered.as_u16(), status, "{body}");
        assert_eq!(live(&server).await, 1, "only the parent is left");
        let state = server.host.state();
        assert!(state.snapshots.is_empty() && state.sandboxes.keys().eq([&id]), "{:?}", state.sandboxes);
    }
    server.host.fail("snapshot", ErrorCode::Internal, "the monitor does not answer");
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": 3})).await.0, 502);
    assert_eq!((live(&server).await, server.status(&id).await.as_str()), (1, "running"));
}

#[tokio::test]
async fn a_fork_that_takes_longer_is_answered_with_the_children_so_far() {
    let server = Fixture::with(|config| config.limits.capsule_answer = Duration::from_millis(50)).await;
    let id = server.create().await;
    let gate = server.host.hold("snapshot");
    let (status, children) = server.post(&format!("/v1/capsules/{id}/fork"), json!({"count": 2})).await;
    assert_eq!(status, 202, "{children}");
    let children: Vec<Value> = children.as_array().unwrap().clone();
    assert!(children.len() == 2 && children.iter().all(|child| child["status"] == "pending"), "{children:?}");
    gate.add_permits(1);
    for child in &children {
        server.until_status(child["id"].as_str().unwrap(), "running").await;
    }
}

#[tokio::test]
async fn a_fork_that_was_cut_off_leaves_no_snapshot() {
    let mut server = Fixture::with(|config| {
        config.drain = Duration::from_millis(100);
        config.reconcile_interval = Duration::from_millis(50);
    })
    .await;
    let id = server.create().await;
    let _gate = server.host.hold("create");
    let url = server.url(&format!("/v1/sandboxes/{id}/fork"));
    let request = tokio::spawn(server.http.post(url).body(r#"{"count":2}"#).send());
    server.host.until(|state| !state.snapshots.is_empty()).await;
    server.host.until(|state| state.calls.iter().filter(|call| call.starts_with("create ")).count() == 3).await;
    server.stop().await;
    request.abort();
    server.host.hold("create").add_permits(100);
    server.start_again().await;
    server.host.until(|state| state.snapshots.is_empty()).await;
    let (_, list) = server.get("/v1/sandboxes?status=error").await;
    assert_eq!(list.as_array().unwrap().len(), 2, "its children are given up: {list}");
    assert_eq!(server.status(&id).await, "running");
}
