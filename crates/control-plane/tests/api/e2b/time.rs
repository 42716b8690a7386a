//! How long a sandbox has.

use serde_json::{Value, json};

use super::{UNKNOWN, id, left, sandbox};
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

#[tokio::test]
async fn connect_and_refreshes_only_extend_and_timeout_sets() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({"timeout": 100})).await;
    let call =
        async |what: &str, body: Value| server.post(&format!("/sandboxes/{}/{what}", id(&made)), body).await.0.as_u16();
    for (what, body, status, end) in [
        ("connect", json!({"timeout": 10}), 200, 90..=100),
        ("connect", json!({"timeout": 200}), 200, 190..=200),
        ("connect", json!({}), 200, 290..=300),
        ("refreshes", json!({"duration": 1}), 204, 290..=300),
        ("timeout", json!({"timeout": 20}), 204, 10..=20),
        ("refreshes", json!({"duration": 500}), 204, 490..=500),
        ("timeout", json!({"timeout": 12}), 204, 5..=12),
        ("refreshes", json!({"duration": 1}), 204, 12..=15),
        ("timeout", json!({"timeout": 12}), 204, 5..=12),
        ("refreshes", json!({}), 204, 12..=15),
    ] {
        assert_eq!(call(what, body.clone()).await, status, "{what} {body}");
        let left = left(&server, id(&made)).await;
        assert!(end.contains(&left), "{what} {body}: {left}");
    }
    for (what, body) in
        [("connect", json!({"timeout": 0})), ("timeout", json!({"timeout": 99_999_999})), ("timeout", json!({}))]
    {
        assert_eq!(call(what, body.clone()).await, 400, "{what} {body}");
    }
    let unknown =
        async |what: &str| server.post(&format!("/sandboxes/{UNKNOWN}/{what}"), json!({"timeout": 9})).await.0;
    assert_eq!((unknown("timeout").await.as_u16(), unknown("refreshes").await.as_u16()), (404, 404));
}
