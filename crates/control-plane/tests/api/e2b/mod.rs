//! The surface for clients of E2B: statuses, bodies, headers and words that those clients depend on.

mod create;
mod errors;
mod fork;
mod guest;
mod list;
mod logs;
mod metrics;
mod network;
mod pause;
mod snapshots;
mod tags;
mod templates;
mod time;

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::Fixture;

const UNKNOWN: &str = "sb00000000000000000000";

async fn sandbox(server: &Fixture, more: Value) -> Value {
    let mut body = json!({"templateID": "minimal"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let (status, sandbox) = server.post("/v2/sandboxes", body).await;
    assert_eq!(status, 201, "{sandbox}");
    sandbox
}

fn id(sandbox: &Value) -> &str {
    sandbox["sandboxID"].as_str().unwrap()
}

fn error(status: u16, message: &str) -> Value {
    json!({"code": status, "message": message})
}

async fn detail(server: &Fixture, id: &str) -> Value {
    let (status, detail) = server.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(status, 200, "{detail}");
    detail
}

/// Seconds that a sandbox has left.
async fn left(server: &Fixture, id: &str) -> i64 {
    let end: jiff::Timestamp = detail(server, id).await["endAt"].as_str().unwrap().parse().unwrap();
    end.duration_since(jiff::Timestamp::now()).as_secs()
}

async fn kill(server: &Fixture, id: &str) -> u16 {
    server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0.as_u16()
}

/// A body of a length that is not said beforehand.
fn in_chunks(body: &Value) -> reqwest::Body {
    reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(body.to_string())]))
}
