//! Commands whose output is collected.

use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

async fn exec(server: &Fixture, id: &str, body: Value) -> Value {
    let (status, answer) = server.post(&format!("/v1/sandboxes/{id}/exec"), body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test]
async fn text_comes_as_text_and_bytes_as_base64() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let answer = exec(&server, &id, json!({"cmd": "echo", "args": ["a", "b"]})).await;
    assert_eq!(answer["stdout"], "a b\n");
    assert_eq!((&answer["encoding"], &answer["exit_code"]), (&json!("utf-8"), &json!(0)));
    assert_eq!((&answer["sandbox_id"], &answer["cmd"]), (&json!(id), &json!("echo")));
    assert!(answer["duration_ms"].is_u64() && answer["stderr"] == "");
    assert!(answer.get("stdout_omitted").is_none());

    let answer = exec(&server, &id, json!({"cmd": "binary"})).await;
    assert_eq!((&answer["stdout"], &answer["stderr"]), (&json!("Yf8="), &json!("dGV4dA==")));
    assert_eq!(answer["encoding"], "base64");

    let (_, sandbox) = server.get(&format!("/v1/sandboxes/{id}")).await;
    assert!(sandbox["last_active_at"].is_string());
}

#[tokio::test]
async fn a_command_that_fails_is_an_ordinary_answer() {
    let server = Fixture::start().await;
    let id = server.create().await;
    assert_eq!(exec(&server, &id, json!({"cmd": "false"})).await["exit_code"], 1);
    let crash = exec(&server, &id, json!({"cmd": "crash"})).await;
    assert_eq!((&crash["exit_code"], &crash["signal"]), (&json!(139), &json!(11)));
    let missing = exec(&server, &id, json!({"cmd": "no-such"})).await;
    assert_eq!((&missing["exit_code"], &missing["stderr"]), (&json!(127), &json!("no-such: not found")));
}

#[tokio::test]
async fn output_that_was_left_out_is_reported() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let answer = exec(&server, &id, json!({"cmd": "much"})).await;
    assert_eq!((&answer["stdout"], &answer["stdout_omitted"]), (&json!("gr"), &json!(7)));
    assert_eq!(answer["encoding"], "utf-8");
    let large = exec(&server, &id, json!({"cmd": "large"})).await;
    assert_eq!(large["stdout"].as_str().unwrap().len(), 32 << 20);
}

#[tokio::test]
async fn the_limit_is_passed_on() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (given, passed_on) in [(json!(null), "30"), (json!(0), "30"), (json!(7), "7"), (json!(-1), "-1")] {
        let answer = exec(&server, &id, json!({"cmd": "limit", "timeout_sec": given})).await;
        assert_eq!(answer["stdout"], passed_on);
    }
}

#[tokio::test]
async fn a_command_with_a_place_and_a_user_reaches_the_guest() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let body = json!({"cmd": "about", "envs": {"A": "1", "B": "2"}, "cwd": "/srv", "user": "ann"});
    let answer = exec(&server, &id, body).await;
    assert_eq!(answer["stdout"], "ann /srv A=1 B=2");

    let (status, body) =
        server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "echo", "cwd": "/missing"})).await;
    assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"));
    let (status, body) = server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "vanish"})).await;
    assert_eq!((status.as_u16(), code(&body)), (502, "agent_error"));
}

#[tokio::test]
async fn what_a_command_printed_that_took_too_long_is_told_beside_the_error() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (status, body) =
        server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "slow", "timeout_sec": 2})).await;
    assert_eq!((status.as_u16(), code(&body), &body["error"]["timeout"]), (504, "timeout", &json!("exec")));
    assert_eq!(body["error"]["message"], "the command did not end within 2 seconds and was killed");
    // The last character was on its way.
    assert_eq!(body["partial"], json!({"stdout": "so f", "stderr": "", "encoding": "utf-8"}));
    assert!(body["request_id"].is_string());
}

#[tokio::test]
async fn a_command_dies_with_the_client_that_waits_for_it() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let body = json!({"cmd": "sleep", "timeout_sec": -1}).to_string();
    let request = server.http.post(server.url(&format!("/v1/sandboxes/{id}/exec"))).body(body).send();
    let request = tokio::spawn(request);
    server.host.until(|state| state.calls.contains(&"run sleep".to_owned())).await;
    request.abort();
    server.host.until(|state| state.taken_back == 1).await;
}

#[tokio::test]
async fn a_guest_times_its_own_programs() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (query, count) in [("", 20), ("?count=3", 3)] {
        let (status, times) = server.get(&format!("/v1/sandboxes/{id}/benchmark{query}")).await;
        assert_eq!((status.as_u16(), times), (200, json!({"count": count, "median_us": 900, "min_us": 800})));
    }
    for query in ["?count=-1", "?count=x", "?count=1001", "?count=%ff"] {
        let (status, body) = server.get(&format!("/v1/sandboxes/{id}/benchmark{query}")).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{query}");
    }
}
