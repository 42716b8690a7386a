//! Snapshots.

use reqwest::Method;
use serde_json::json;

use super::{id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn a_snapshot_is_a_template_and_its_name_can_be_given_again() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let path = format!("/sandboxes/{}/snapshots", id(&made));
    for _ in 0..2 {
        let (status, snapshot) = server.post(&path, json!({"name": "mine"})).await;
        let expect = json!({"snapshotID": "sandpiper/mine:default", "names": ["sandpiper/mine"]});
        assert_eq!((status.as_u16(), snapshot), (201, expect));
    }
    assert_eq!(server.get("/snapshots").await.1.as_array().unwrap().len(), 1);
    assert_eq!(server.get("/templates/aliases/mine").await.0, 200);
    assert_eq!(server.get("/templates/aliases/other").await.0, 404);
    let copy = server.post("/v2/sandboxes", json!({"templateID": "sandpiper/mine:default"})).await;
    assert_eq!(copy.0, 201, "{}", copy.1);
    server.send(Method::DELETE, &format!("/sandboxes/{}", id(&copy.1)), None).await;
    let delete = async || server.send(Method::DELETE, "/templates/sandpiper%2Fmine%3Adefault", None).await.0;
    assert_eq!((delete().await.as_u16(), delete().await.as_u16()), (204, 404));
}
