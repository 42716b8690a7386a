//! Lists: metadata, filters, pages.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

async fn create(server: &Fixture, metadata: Value) -> String {
    let (status, sandbox) = server.post("/v1/sandboxes", json!({"metadata": metadata})).await;
    assert_eq!(status, 201, "{sandbox}");
    assert_eq!(sandbox.get("metadata").cloned().unwrap_or(json!({})), metadata);
    sandbox["id"].as_str().unwrap().to_owned()
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|sandbox| sandbox["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn sandboxes_are_found_by_their_metadata_and_status() {
    let server = Fixture::start().await;
    let one = create(&server, json!({"app": "web", "stage": "a b=c"})).await;
    let two = create(&server, json!({"app": "web"})).await;
    create(&server, json!({})).await;
    server.post(&format!("/v1/sandboxes/{two}/pause"), json!({})).await;
    for (query, expected) in [
        ("metadata=app%3Dweb", vec![two.as_str(), &one]),
        ("metadata=app%3Dweb&metadata=stage%3Da+b%3Dc", vec![one.as_str()]),
        ("metadata=app%3Dweb&status=paused", vec![two.as_str()]),
        ("status=paused,error", vec![two.as_str()]),
        ("status=stopped", vec![]),
    ] {
        let (_, list) = server.get(&format!("/v1/sandboxes?{query}")).await;
        assert_eq!(ids(&list), expected, "{query}");
    }
    assert_eq!(ids(&server.get("/v1/sandboxes").await.1).len(), 3);
}

#[tokio::test]
async fn a_list_in_parts_has_everything_once() {
    let server = Fixture::start().await;
    for _ in 0..5 {
        server.create().await;
    }
    let (_, whole) = server.get("/v1/sandboxes").await;
    let (mut seen, mut query, mut parts) = (Vec::new(), "limit=2".to_owned(), 0);
    loop {
        let response = server.http.get(server.url(&format!("/v1/sandboxes?{query}"))).send().await.unwrap();
        let next = response.headers().get("x-next-token").map(|token| token.to_str().unwrap().to_owned());
        let list: Value = response.json().await.unwrap();
        seen.extend(list.as_array().unwrap().clone());
        parts += 1;
        let Some(next) = next else { break };
        query = format!("limit=2&next_token={next}");
    }
    assert_eq!((Value::Array(seen), parts), (whole, 3));
}

#[tokio::test]
async fn metadata_and_filters_that_break_the_rules_are_refused() {
    let server = Fixture::start().await;
    let many: serde_json::Map<_, _> = (0..21).map(|number| (format!("n{number}"), json!("x"))).collect();
    for metadata in [
        json!({"kernel_version": "1"}),
        json!({"": "x"}),
        json!({"a b": "x"}),
        json!({"a": "x".repeat(65)}),
        json!({"a": "\u{0}"}),
        json!({"a": 1}),
        Value::Object(many),
    ] {
        let (status, body) = server.post("/v1/sandboxes", json!({"metadata": metadata})).await;
        assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "invalid_request"), "{metadata}");
    }
    for query in ["limit=0", "limit=x", "status=starting", "metadata=x", "next_token=x"] {
        let (status, body) = server.get(&format!("/v1/sandboxes?{query}")).await;
        assert_eq!((status, code(&body)), (StatusCode::BAD_REQUEST, "invalid_request"), "{query}");
    }
}
