//! Logs.

use connectrpc::ErrorCode;
use serde_json::json;

use super::{id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn what_happened_to_a_sandbox_is_its_log() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let (status, logs) = server.get(&format!("/v2/sandboxes/{}/logs", id(&made))).await;
    assert_eq!(status, 200);
    let messages: Vec<_> = logs["logs"].as_array().unwrap().iter().map(|entry| &entry["message"]).collect();
    assert!(messages.iter().any(|message| message.as_str().unwrap().contains("create")), "{messages:?}");
    let (_, old) = server.get(&format!("/sandboxes/{}/logs", id(&made))).await;
    assert_eq!(old["logEntries"].as_array().unwrap().len(), messages.len());
}

#[tokio::test]
async fn a_log_is_read_from_a_time_on_in_either_direction() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    server.host.fail("pause", ErrorCode::Unavailable, "not now");
    assert_eq!(server.post(&format!("/sandboxes/{}/pause", id(&made)), json!({})).await.0, 503);
    let read = async |query: &str| {
        let (status, logs) = server.get(&format!("/v2/sandboxes/{}/logs?{query}", id(&made))).await;
        assert_eq!(status, 200, "{logs}");
        logs["logs"].as_array().unwrap().clone()
    };
    let all = read("").await;
    let backward: Vec<_> = all.iter().rev().cloned().collect();
    assert_eq!(read("direction=backward").await, backward);
    assert_eq!(
        (read("limit=1").await, read("limit=1&direction=backward").await),
        (all[..1].to_vec(), backward[..1].to_vec())
    );
    let errors = read("level=error").await;
    assert!(errors.len() == 1 && errors[0]["message"].as_str().unwrap().contains("not now"), "{errors:?}");
    assert_eq!((read("search=not%20now").await, read("level=debug").await.len()), (errors, all.len()));
    assert_eq!(read("cursor=0").await.len(), all.len());
    assert_eq!((read("cursor=9999999999999").await.len(), read("cursor=0&direction=backward").await.len()), (0, 0));
    let (_, old) = server.get(&format!("/sandboxes/{}/logs?start=9999999999999", id(&made))).await;
    assert_eq!(old, json!({"logs": [], "logEntries": []}));
}
