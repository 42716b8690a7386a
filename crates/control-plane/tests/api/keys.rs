//! API keys: no route without one, and to each key its own sandboxes.

use control_plane::Keys;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, answer, code};
use crate::openapi::operations;

/// Every operation of the document that needs a key, and what is no operation at all: there the key comes first too.
async fn routes(server: &Fixture, id: &str) -> Vec<(Method, String)> {
    let (_, document) = server.get("/openapi.json").await;
    let needs_key = |operation: &Value| operation.get("security").unwrap_or(&document["security"]) != &json!([]);
    let mut routes: Vec<_> = operations(&document)
        .into_iter()
        .filter(|(_, _, operation)| needs_key(operation))
        .map(|(method, path, _)| {
            (method.parse().unwrap(), path.replace("{id}", id).replace("{process}", "job").replace("{name}", "minimal"))
        })
        .collect();
    assert!(routes.len() > 10, "the operations were not found");
    assert!(routes.iter().all(|(_, path)| !path.contains('{')), "a path has a part that this test cannot fill in");
    let one = format!("/v1/sandboxes/{id}");
    routes.extend([(Method::GET, format!("{one}/")), (Method::GET, "/v1/nothing".into()), (Method::PATCH, one)]);
    routes
}

async fn send(server: &Fixture, method: Method, path: &str, header: Option<(&str, &str)>) -> (u16, Value) {
    let request = server.http.request(method, server.url(path)).body("{}");
    let request = match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    };
    let response = request.send().await.unwrap();
    if response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream") {
        // It has no end.
        return (response.status().as_u16(), Value::Null);
    }
    let (status, body) = answer(response).await;
    (status.as_u16(), body)
}

async fn keys(server: &Fixture) -> Keys {
    Keys::open(&server.config.store).await.unwrap()
}

#[tokio::test]
async fn every_route_refuses_no_key_a_wrong_key_and_a_revoked_key() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let routes = routes(&server, &id).await;
    let keys = keys(&server).await;
    let (_, good) = keys.create("good", Some("".parse().unwrap())).await.unwrap();
    let (revoked, dead) = keys.create("dead", None).await.unwrap();
    assert_eq!(send(&server, Method::GET, "/v1/sandboxes", Some(("X-API-Key", &dead))).await.0, 200);
    assert!(keys.revoke(&revoked.id).await.unwrap());
    let wrong = format!("e2b_{}", "0".repeat(40));
    let bearer = format!("Bearer {wrong}");
    for (method, path) in &routes {
        for header in [
            None,
            Some(("X-API-Key", "")),
            Some(("X-API-Key", wrong.as_str())),
            Some(("X-API-Key", &dead)),
            Some(("Authorization", &bearer)),
        ] {
            let (status, body) = send(&server, method.clone(), path, header).await;
            assert_eq!((status, code(&body)), (401, "unauthorized"), "{method} {path} {header:?}");
        }
    }
    // With the right one, in either header, every route that there is answers something else.
    let bearer = format!("Bearer {good}");
    for header in [("X-API-Key", good.as_str()), ("Authorization", &bearer)] {
        for (method, path) in &routes {
            assert_ne!(send(&server, method.clone(), path, Some(header)).await.0, 401, "{method} {path}");
        }
    }
    assert_eq!(server.get("/health").await.0, 200, "monitors have no key");
}

#[tokio::test]
async fn without_keys_any_key_is_accepted() {
    let server = Fixture::start().await;
    for key in ["", "anything", &format!("e2b_{}", "0".repeat(40))] {
        assert_eq!(send(&server, Method::GET, "/v1/sandboxes", Some(("X-API-Key", key))).await.0, 200);
    }
}

#[tokio::test]
async fn another_owners_sandbox_is_not_there_on_any_route() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut routes = routes(&server, &id).await;
    routes.retain(|(method, path)| path.contains(&id) && method != Method::PATCH);
    let keys = keys(&server).await;
    let (_, alice) = keys.create("alice", None).await.unwrap();
    let (_, bob) = keys.create("bob", None).await.unwrap();
    let (status, sandbox) = send(&server, Method::POST, "/v1/sandboxes", Some(("X-API-Key", &alice))).await;
    assert_eq!(status, 201);
    let own = sandbox["id"].as_str().unwrap();
    for (method, path) in routes.iter().map(|(method, path)| (method, path.replace(&id, own))) {
        let (status, body) = send(&server, method.clone(), &path, Some(("X-API-Key", &bob))).await;
        assert_eq!((status, code(&body)), (404, "not_found"), "{method} {path}");
    }
    let (_, list) = send(&server, Method::GET, "/v1/sandboxes", Some(("X-API-Key", &bob))).await;
    assert_eq!(list, serde_json::json!([]));
    let (_, own) = send(&server, Method::GET, &format!("/v1/sandboxes/{own}"), Some(("X-API-Key", &alice))).await;
    assert_eq!(own["status"], "running");
}
