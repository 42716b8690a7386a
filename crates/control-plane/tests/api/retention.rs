//! What is not kept any longer goes by itself, with its reason.

use std::time::Duration;

use control_plane::RetentionPolicy;
use model::Retention;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::Fixture;

fn keep(snapshots: Retention, paused: Retention) -> impl FnOnce(&mut control_plane::Config) {
    move |config| {
        config.reconcile_interval = Duration::from_millis(50);
        config.retention = RetentionPolicy { snapshots, paused };
    }
}

const ONE: Retention = Retention { count: Some(1), age: None };
const MOMENT: Retention = Retention { count: None, age: Some(Duration::from_millis(300)) };
const ALL: Retention = Retention { count: None, age: None };

async fn snapshot(server: &Fixture, sandbox: &str, name: &str) {
    let (status, _) = server.post(&format!("/v1/sandboxes/{sandbox}/snapshots"), json!({"name": name})).await;
    assert_eq!(status, 201);
}

async fn events(server: &Fixture, kind: &str) -> Value {
    let mut stream =
        server.http.get(server.url("/v1/events/stream")).header("last-event-id", "0").send().await.unwrap();
    let mut text = String::new();
    let read = async {
        loop {
            text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
            let bodies = text.lines().filter_map(|line| line.strip_prefix("data: "));
            let mut events = bodies.filter_map(|body| body.parse::<Value>().ok());
            if let Some(event) = events.find(|event| event["event"] == kind) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the event comes in time")
}

#[tokio::test]
async fn the_snapshots_that_were_used_last_are_kept_and_those_that_are_needed() {
    let server = Fixture::with(keep(ONE, ALL)).await;
    let id = server.create().await;
    snapshot(&server, &id, "needed").await;
    let (_, child) = server.post("/v1/sandboxes", json!({"snapshot": "needed"})).await;
    snapshot(&server, &id, "second").await;
    snapshot(&server, &id, "third").await;
    server.until("/v1/snapshots/second", |answer| answer["error"]["code"] == "not_found").await;
    assert_eq!(server.get("/v1/snapshots/needed").await.0, 200, "a sandbox came from it");
    let event = events(&server, "template.snapshot.delete").await;
    assert_eq!((&event["metadata"]["name"], &event["actor"]["type"]), (&json!("second"), &json!("system")));
    assert!(event["metadata"]["reason"].as_str().unwrap().starts_with("retention: at most 1"), "{event}");
    server.delete(child["id"].as_str().unwrap()).await;
    server.until("/v1/snapshots/needed", |answer| answer["error"]["code"] == "not_found").await;
    assert_eq!(server.get("/v1/snapshots/third").await.0, 200);
}

#[tokio::test]
async fn a_sandbox_that_is_paused_for_too_long_is_removed_and_its_record_says_why() {
    let server = Fixture::with(keep(ALL, MOMENT)).await;
    let (running, paused) = (server.create().await, server.create().await);
    server.post(&format!("/v1/sandboxes/{paused}/pause"), json!({})).await;
    server.until_status(&paused, "stopped").await;
    let (_, record) = server.get(&format!("/v1/sandboxes/{paused}")).await;
    assert_eq!(record["status_reason"], "retention: it was not used for 0 s");
    assert!(!server.host.state().sandboxes.contains_key(&paused));
    assert_eq!(server.status(&running).await, "running");
    let event = events(&server, "capsule.destroy").await;
    assert_eq!((&event["resource"]["id"], &event["actor"]["type"]), (&json!(paused), &json!("system")));
}

#[tokio::test]
async fn prune_tells_and_then_does_it_now() {
    let server = Fixture::with(|config| {
        config.reconcile_interval = Duration::from_secs(3600);
        config.retention = RetentionPolicy { snapshots: ONE, paused: ONE };
    })
    .await;
    let (one, two) = (server.create().await, server.create().await);
    snapshot(&server, &one, "old").await;
    snapshot(&server, &one, "new").await;
    for id in [&one, &two] {
        server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    }
    let prune = async |body: Value| {
        let (status, pruned) = server.post("/v1/prune", body).await;
        assert_eq!(status, 200, "{pruned}");
        pruned
    };
    let (dry, wet) = (prune(json!({"dry_run": true})).await, async || prune(json!({})).await);
    let told: Vec<_> =
        dry["removed"].as_array().unwrap().iter().map(|removed| removed["kind"].as_str().unwrap()).collect();
    assert_eq!((told, &dry["dry_run"]), (vec!["snapshot", "sandbox", "bake"], &json!(true)));
    assert_eq!((&dry["removed"][0]["name"], &dry["removed"][1]["id"]), (&json!("old"), &json!(one)));
    assert_eq!(dry["removed"][2], json!({"kind": "bake", "id": "minimal-1-512", "bytes": 3000}));
    assert_eq!(server.status(&one).await, "paused", "nothing has happened");
    assert!(server.host.state().calls.contains(&"prune dry".to_owned()));
    let pruned = wet().await;
    assert_eq!((&pruned["removed"], &pruned["dry_run"]), (&dry["removed"], &json!(false)));
    assert_eq!((server.status(&one).await, server.status(&two).await), ("stopped".to_owned(), "paused".to_owned()));
    assert_eq!(server.get("/v1/snapshots/old").await.0, 404);
    assert_eq!(server.get("/v1/snapshots/new").await.0, 200);
    assert_eq!(wet().await["removed"].as_array().unwrap().len(), 1);
    assert_eq!(server.send(Method::POST, "/v1/prune", None).await.0, 400);
}

#[tokio::test]
async fn nobody_prunes_what_is_anothers() {
    let server = Fixture::with(|config| {
        config.reconcile_interval = Duration::from_secs(3600);
        config.retention = RetentionPolicy { snapshots: ALL, paused: Retention { count: Some(0), age: None } };
    })
    .await;
    let id = server.create().await;
    server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
    let keys = control_plane::Keys::open(&server.config.store).await.unwrap();
    let (_, bob) = keys.create("bob", None).await.unwrap();
    let request = server.http.post(server.url("/v1/prune")).header("X-API-Key", bob).body("{}");
    let (status, pruned) = crate::fixture::answer(request.send().await.unwrap()).await;
    assert_eq!((status.as_u16(), pruned["removed"].as_array().unwrap().len()), (200, 1), "{pruned}");
    assert_eq!(server.host.state().sandboxes[&id], "paused");
}
