//! Requests that are made again under the same key.

use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

async fn keyed(server: &Fixture, path: &str, key: &str, body: Value) -> (u16, Value) {
    let request = server.http.post(server.url(path)).header("idempotency-key", key).body(body.to_string());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn count(server: &Fixture, call: &str) -> usize {
    server.host.state().calls.iter().filter(|made| made.starts_with(call)).count()
}

#[tokio::test]
async fn the_same_key_makes_one_sandbox() {
    let server = Fixture::start().await;
    let make = |key: &'static str, memory: u32| {
        keyed(&server, "/v1/sandboxes", key, json!({"template": "minimal", "memory_mb": memory}))
    };
    let all = futures::future::join_all((0..4).map(|_| make("a-1", 512))).await;
    assert!(all.iter().all(|(status, body)| *status == 201 && body["status"] == "running"), "{all:?}");
    assert!(all.iter().all(|(_, body)| body["id"] == all[0].1["id"]), "{all:?}");
    assert_eq!(count(&server, "create "), 1);
    let (status, other) = make("a-1", 256).await;
    assert_eq!((status, code(&other)), (409, "conflict"));
    let (status, another) = make("a-2", 256).await;
    assert!(status == 201 && another["id"] != all[0].1["id"]);
    let (status, body) = make("a b", 512).await;
    assert_eq!((status, code(&body)), (400, "invalid_request"));
}

#[tokio::test]
async fn the_same_key_runs_a_command_once() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let before = count(&server, "exec ");
    let run = |key: &'static str, word: &str| keyed(&server, &path, key, json!({"cmd": "echo", "args": [word]}));
    let all = futures::future::join_all((0..4).map(|_| run("k", "hi"))).await;
    assert!(all.iter().all(|(status, body)| *status == 200 && body == &all[0].1), "{all:?}");
    assert_eq!((&all[0].1["stdout"], count(&server, "exec ") - before), (&json!("hi\n"), 1));
    let (status, body) = run("k", "other").await;
    assert_eq!((status, code(&body)), (409, "conflict"));
    assert_eq!(run("l", "other").await.1["stdout"], "other\n");

    let started = |key: &'static str| keyed(&server, &path, key, json!({"cmd": "sleep", "background": true}));
    let (first, again) = (started("b").await, started("b").await);
    assert!(first.0 == 202 && first == again, "{first:?} {again:?}");
    assert_eq!(count(&server, "start sleep"), 1);
}

#[tokio::test]
async fn what_was_not_begun_may_be_begun_again_and_what_is_not_known_is_no_success() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let nowhere = || keyed(&server, &path, "n", json!({"cmd": "echo", "cwd": "/missing"}));
    for _ in 0..2 {
        assert_eq!(nowhere().await.0, 400);
    }
    assert_eq!(count(&server, "run echo"), 2, "it was not begun");
    let vanish = || keyed(&server, &path, "v", json!({"cmd": "vanish"}));
    assert_eq!(vanish().await.0, 502);
    let (status, body) = vanish().await;
    assert_eq!((status, code(&body), count(&server, "run vanish")), (409, "conflict", 1));
    assert!(body["error"]["message"].as_str().unwrap().contains("not known"), "{body}");
    let slow = || keyed(&server, &path, "s", json!({"cmd": "slow", "timeout_sec": 2}));
    let (first, again) = (slow().await, slow().await);
    assert_eq!((first.0, again.0), (504, 504));
    assert_eq!((&first.1["error"], &first.1["partial"]), (&again.1["error"], &again.1["partial"]));
}
