//! Creates while the host is still building their template.

use std::time::Duration;

use connectrpc::ErrorCode;
use control_plane::Config;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

fn hasty(config: &mut Config) {
    config.limits.capsule_answer = Duration::from_millis(50);
}

/// A server whose host builds the template that capsules are made from, and a capsule that waits for it.
async fn waiting() -> (Fixture, String) {
    let server = Fixture::with(hasty).await;
    server.host.update(|state| state.building = vec!["minimal-ubuntu".to_owned()]);
    let (status, capsule) = server.post("/v1/capsules", json!({})).await;
    assert_eq!((status.as_u16(), &capsule["status"]), (202, &json!("pending")), "{capsule}");
    (server, capsule["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_capsule_waits_for_its_template_and_then_runs() {
    let (server, id) = waiting().await;
    server.host.until(|state| state.calls.iter().filter(|call| call.starts_with("create ")).count() >= 2).await;
    assert_eq!(server.status(&id).await, "pending");
    server.host.update(|state| state.building.clear());
    server.until_status(&id, "running").await;
}

#[tokio::test]
async fn a_sandbox_does_not_wait_and_leaves_no_record() {
    let server = Fixture::start().await;
    server.host.update(|state| state.building = vec!["minimal".to_owned()]);
    let request = server.http.post(server.url("/v1/sandboxes")).body("{}").send().await.unwrap();
    assert_eq!((request.status().as_u16(), &request.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let body: Value = request.json().await.unwrap();
    assert_eq!(code(&body), "starting", "{body}");
    assert_eq!(server.get("/v1/sandboxes").await.1, json!([]));
    let (status, _) = server.post("/v1/sandboxes", json!({"template": "minimal-ubuntu"})).await;
    assert_eq!(status, 201, "another template is there");
}

#[tokio::test]
async fn a_capsule_that_waits_can_be_deleted() {
    let (mut server, id) = waiting().await;
    assert_eq!(server.send(Method::DELETE, &format!("/v1/capsules/{id}"), None).await.0, 204);
    assert_eq!(server.status(&id).await, "stopped");
    server.host.update(|state| state.building.clear());
    // That takes until everything that waited has ended.
    server.stop().await;
    assert!(server.host.state().sandboxes.is_empty(), "nothing was made after all");
}

#[tokio::test]
async fn a_capsule_whose_template_never_comes_is_in_error_with_the_reason() {
    for (failure, message) in [
        (ErrorCode::Internal, "template minimal-ubuntu was not built: the mirror is down"),
        // Elsewhere a refusal leaves no record. This one's client has an id to ask by.
        (ErrorCode::ResourceExhausted, "no disk space"),
    ] {
        let (server, id) = waiting().await;
        server.host.fail("create", failure, message);
        server.until_status(&id, "error").await;
        let (_, capsule) = server.get(&format!("/v1/capsules/{id}")).await;
        assert!(capsule["status_reason"].as_str().unwrap().contains(message), "{capsule}");
    }
}

#[tokio::test]
async fn the_server_is_not_healthy_before_its_templates_are_built() {
    let server = Fixture::start().await;
    server.host.update(|state| state.building = vec!["python311".to_owned()]);
    let (status, body) = server.get("/health").await;
    assert_eq!((status.as_u16(), code(&body)), (503, "starting"));
    assert!(body["error"]["message"].as_str().unwrap().contains("python311"), "{body}");
    server.host.update(|state| state.building.clear());
    assert_eq!(server.get("/health").await.0, 200);
}
