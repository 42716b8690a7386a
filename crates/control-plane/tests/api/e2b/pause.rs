//! Pausing, and going on.

use reqwest::Method;
use serde_json::{Value, json};

use super::{error, id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn pauses_and_resumes_have_the_statuses_that_clients_branch_on() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let id = id(&made);
    let call = async |what: &str, body: Value| server.post(&format!("/sandboxes/{id}/{what}"), body).await;
    let connect = async || server.post(&format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 100})).await;
    let (status, same) = connect().await;
    assert_eq!((status.as_u16(), &same["envdAccessToken"]), (200, &made["envdAccessToken"]));
    assert_eq!(call("pause", json!({})).await.0, 204);
    let paused = format!("Error pausing sandbox - sandbox '{id}' is already paused");
    assert_eq!(call("pause", json!({})).await.1, error(409, &paused));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 409);
    let fork = format!("Sandbox '{id}' is paused and cannot be forked; resume it first");
    assert_eq!(call("fork", json!({})).await.1, error(409, &fork));
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.1["state"], "paused");
    let (status, woken) = connect().await;
    assert_eq!((status.as_u16(), &woken["envdAccessToken"]), (201, &made["envdAccessToken"]));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 204);
    assert_eq!(call("refreshes", json!({})).await.0, 204);
    assert_eq!(call("pause", json!({"memory": false})).await.0, 501);
    assert_eq!(call("resume", json!({})).await.0, 409, "it runs");
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 204);
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 404);
}
