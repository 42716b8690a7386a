//! How long a sandbox has.

use serde_json::json;

use super::{id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn a_sandbox_ends_when_its_time_is_over_and_not_before() {
    let server = Fixture::start().await;
    let (kept, ended) = (sandbox(&server, json!({})).await, sandbox(&server, json!({})).await);
    let paused = sandbox(&server, json!({"autoPause": true})).await;
    for over in [&ended, &paused] {
        let path = format!("/sandboxes/{}/timeout", id(over));
        assert_eq!(server.post(&path, json!({"timeout": -1})).await.0, 204);
    }
    server.until_status(id(&ended), "stopped").await;
    server.until_status(id(&paused), "paused").await;
    assert_eq!(server.status(id(&kept)).await, "running");
    // Woken by another surface it has some time again.
    let (status, _) = server.post(&format!("/v1/sandboxes/{}/resume", id(&paused)), json!({})).await;
    assert_eq!(status, 200);
    server.post(&format!("/sandboxes/{}/timeout", id(&kept)), json!({"timeout": 0})).await;
    server.until_status(id(&kept), "stopped").await;
    assert_eq!(server.status(id(&paused)).await, "running");
}
