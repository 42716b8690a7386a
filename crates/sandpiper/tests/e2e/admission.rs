//! Limits of host and owner: what does not fit is refused with nothing changed, and fits once there is room again.

use futures::future::join_all;
use serde_json::{Value, json};
use testkit::{Answer, Server};

use super::server;

async fn change(server: &Server, id: &str, action: &str) -> Answer {
    server.call("POST", &format!("/v1/sandboxes/{id}/{action}"), Value::Null).await
}

fn check_refusal(answer: &Answer, words: &str) {
    let error = &answer.body["error"];
    assert_eq!((answer.status, error["code"].as_str()), (503, Some("unavailable")), "{answer:?}");
    assert!(error["message"].as_str().unwrap().contains(words), "{answer:?}");
}

#[tokio::test]
async fn of_many_creates_at_once_as_many_succeed_as_there_is_room_for() {
    let server = server(&["--max-sandboxes-per-owner", "2"]).await;
    let answers = join_all((0..12).map(|_| server.call("POST", "/v1/sandboxes", json!({})))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!((made.len(), refused.len()), (2, 10), "{answers:?}");
    refused.iter().for_each(|answer| check_refusal(answer, "too many sandboxes"));
    let inventory = server.inventory();
    for kind in ["monitor", "namespace", "slot", "directory"] {
        assert_eq!(inventory.of_kind(kind).len(), 2, "{kind}: {inventory:?}");
    }
    let list = server.call("GET", "/v1/sandboxes", Value::Null).await.body;
    assert_eq!(list.as_array().unwrap().len(), 2, "{list}");

    let id = made[0].body["id"].as_str().unwrap();
    assert_eq!(change(&server, id, "pause").await.status, 200);
    check_refusal(&server.call("POST", "/v1/sandboxes", json!({})).await, "too many sandboxes");
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    server.create(json!({})).await;
}

#[tokio::test]
async fn a_paused_sandbox_goes_on_only_where_there_is_room_again() {
    // For one sandbox of 512 MB with its monitor.
    let server = server(&["--max-memory-mb", "576"]).await;
    let first = server.create(json!({})).await;
    check_refusal(&server.call("POST", "/v1/sandboxes", json!({ "memory_mb": 128 })).await, "no memory");
    assert_eq!(change(&server, &first, "pause").await.status, 200);
    let second = server.create(json!({})).await;
    check_refusal(&change(&server, &first, "resume").await, "no memory");
    let row = server.call("GET", &format!("/v1/sandboxes/{first}"), Value::Null).await;
    assert_eq!(row.body["status"], "paused");
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{second}"), Value::Null).await.status, 204);
    assert_eq!(change(&server, &first, "resume").await.status, 200);
    assert_eq!(server.shell(&first, "hostname").await.1.trim(), first);
}

#[tokio::test]
async fn processors_are_promised_so_many_times() {
    let processors = std::thread::available_parallelism().unwrap().get();
    let server = server(&["--vcpu-overcommit", "1"]).await;
    check_refusal(&server.call("POST", "/v1/sandboxes", json!({ "vcpus": processors + 1 })).await, "no vCPUs");
}
