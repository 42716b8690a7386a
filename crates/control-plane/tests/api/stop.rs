//! Keeping the disk of a sandbox alone, and starting it from that.

use std::time::Duration;

use connectrpc::ErrorCode;
use serde_json::json;

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn a_stopped_sandbox_says_why_and_is_there_until_it_is_deleted() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let one = format!("/v1/sandboxes/{id}");
    let (status, stopped) = server.post(&format!("{one}/stop"), json!(null)).await;
    assert_eq!(
        (status.as_u16(), &stopped["status"], &stopped["status_reason"]),
        (200, &json!("stopped"), &json!("stopped"))
    );
    for path in ["stop", "pause", "exec", "fork"] {
        let (status, body) = server.post(&format!("{one}/{path}"), json!({"cmd": "x"})).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"), "{path}: {body}");
    }
    assert!(server.host.state().sandboxes.contains_key(&id));
    assert_eq!(server.delete(&id).await.0, 204);
    assert!(server.host.state().sandboxes.is_empty(), "its disk is gone");
    assert_eq!(server.post(&format!("{one}/resume"), json!(null)).await.0, 409, "nothing comes back from that");
}

#[tokio::test]
async fn after_a_stop_that_failed_a_sandbox_is_what_it_was() {
    for before in ["running", "paused"] {
        let server = Fixture::start().await;
        let id = server.create().await;
        let one = format!("/v1/sandboxes/{id}");
        if before == "paused" {
            server.post(&format!("{one}/pause"), json!(null)).await;
        }
        server.host.fail("stop", ErrorCode::ResourceExhausted, "no disk space");
        assert_eq!(server.post(&format!("{one}/stop"), json!(null)).await.0, 507);
        assert_eq!(server.status(&id).await, before);
    }
}

#[tokio::test]
async fn a_host_that_stopped_what_was_not_used_is_believed() {
    let server = Fixture::with(|config| config.reconcile_interval = Duration::from_millis(100)).await;
    let (_, sandbox) = server.post("/v1/sandboxes", json!({"timeout_sec": 1, "on_timeout": "stop"})).await;
    assert_eq!(sandbox["on_timeout"], "stop");
    let id = sandbox["id"].as_str().unwrap().to_owned();
    assert_eq!(server.host.state().on_expiry[&id], "stop");
    // Its time has to be over by the record too: else it was the machine that was restarted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.host.update(|state| state.sandboxes.insert(id.clone(), "stopped".to_owned()));
    server.until_status(&id, "stopped").await;
    let (_, sandbox) = server.get(&format!("/v1/sandboxes/{id}")).await;
    assert_eq!(sandbox["status_reason"], "ttl_expired");
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/resume"), json!(null)).await.0, 200);
}
