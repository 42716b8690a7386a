//! The surface for clients of E2B: statuses, bodies, headers and words that those clients depend on.

mod create;
mod errors;
mod fork;
mod guest;
mod list;
mod logs;
mod pause;
mod snapshots;
mod tags;
mod time;

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
