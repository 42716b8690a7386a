//! Logs.

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
