//! What expiry does to a sandbox, and calls that resume it because they need its guest.

use std::time::Duration;

use connectrpc::ErrorCode;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

async fn create(server: &Fixture, wish: Value) -> String {
    let (status, sandbox) = server.post("/v1/sandboxes", wish).await;
    assert_eq!(status, 201, "{sandbox}");
    sandbox["id"].as_str().unwrap().to_owned()
}

async fn paused(server: &Fixture, surface: &str, auto_resume: bool) -> String {
    let (_, sandbox) =
        server.post(&format!("/v1/{surface}"), json!({"template": "minimal", "auto_resume": auto_resume})).await;
    assert_eq!(sandbox["auto_resume"], auto_resume);
    let id = sandbox["id"].as_str().unwrap().to_owned();
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.0, 200);
    id
}

fn resumes(server: &Fixture, id: &str) -> usize {
    server.host.state().calls.iter().filter(|call| **call == format!("resume {id}")).count()
}

#[tokio::test]
async fn a_request_may_say_what_expiry_does() {
    let server = Fixture::start().await;
    for (surface, asked, expected) in [
        ("sandboxes", json!(null), "destroy"),
        ("sandboxes", json!("pause"), "pause"),
        ("sandboxes", json!("destroy"), "destroy"),
        ("sandboxes", json!("stop"), "stop"),
        ("capsules", json!(null), "pause"),
        ("capsules", json!("destroy"), "destroy"),
        ("capsules", json!(""), "pause"),
    ] {
        let (_, made) =
            server.post(&format!("/v1/{surface}"), json!({"template": "minimal", "on_timeout": asked})).await;
        assert_eq!(made["on_timeout"], expected, "{surface} {asked}");
        assert_eq!(server.host.state().on_expiry[made["id"].as_str().unwrap()], expected);
    }
    for wrong in [json!("halt"), json!(1)] {
        let (status, body) = server.post("/v1/sandboxes", json!({"on_timeout": wrong})).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{wrong}");
    }
}

#[tokio::test]
async fn every_call_that_needs_the_guest_resumes_a_sandbox_that_was_made_so() {
    let server = Fixture::start().await;
    for surface in ["sandboxes", "capsules"] {
        let id = paused(&server, surface, true).await;
        for (number, (method, path, body)) in [
            (Method::POST, "exec", json!({"cmd": "echo"})),
            (Method::POST, "ping", json!({})),
            (Method::POST, "files/list", json!({"path": "/home"})),
            (Method::POST, "files/mkdir", json!({"path": "/home/new"})),
            (Method::GET, "processes", json!({})),
        ]
        .into_iter()
        .enumerate()
        {
            let (status, body) = server.send(method, &format!("/v1/{surface}/{id}/{path}"), Some(body)).await;
            assert!(status.is_success(), "{path}: {body}");
            assert_eq!((resumes(&server, &id), server.status(&id).await.as_str()), (number + 1, "running"), "{path}");
            assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.0, 200);
        }
        for path in ["", "/metrics"] {
            assert_eq!(server.get(&format!("/v1/{surface}/{id}{path}")).await.0, 200);
            assert_eq!(server.status(&id).await, "paused", "looking needs no guest");
        }
    }
}

#[tokio::test]
async fn another_sandbox_stays_paused_and_the_call_is_refused() {
    let server = Fixture::start().await;
    let id = paused(&server, "sandboxes", false).await;
    let (status, body) = server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "echo"})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"));
    assert_eq!(body["error"]["message"], "sandbox is not running (status: paused)");
    assert_eq!(resumes(&server, &id), 0);
}

#[tokio::test]
async fn of_many_calls_at_once_one_resumes_and_the_others_wait() {
    let server = Fixture::start().await;
    let id = paused(&server, "sandboxes", true).await;
    let gate = server.host.hold("resume");
    let path = format!("/v1/sandboxes/{id}/exec");
    let calls = join_all((0..8).map(|_| server.post(&path, json!({"cmd": "echo"}))));
    let release = async {
        server.until_status(&id, "resuming").await;
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(calls, release);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(resumes(&server, &id), 1);
}

#[tokio::test]
async fn a_pause_and_a_capture_that_are_under_way_are_waited_for() {
    let server = Fixture::start().await;
    let id = create(&server, json!({"auto_resume": true})).await;
    let exec = format!("/v1/sandboxes/{id}/exec");
    for (call, method, transient) in [("pause", "pause", "pausing"), ("snapshots", "snapshot", "snapshotting")] {
        let gate = server.host.hold(method);
        let path = format!("/v1/sandboxes/{id}/{call}");
        let first = server.post(&path, json!({}));
        let second = async {
            server.until_status(&id, transient).await;
            tokio::join!(server.post(&exec, json!({"cmd": "echo"})), async { gate.add_permits(100) }).0
        };
        let ((first, _), (second, body)) = tokio::join!(first, second);
        assert!(first.is_success() && second == 200, "{call}: {body}");
        assert_eq!(server.status(&id).await, "running");
    }
    assert_eq!(resumes(&server, &id), 1);
}

#[tokio::test]
async fn a_resume_that_fails_is_told_and_the_next_call_tries_again() {
    let server = Fixture::start().await;
    let id = paused(&server, "sandboxes", true).await;
    server.host.fail("resume", ErrorCode::ResourceExhausted, "no room");
    let path = format!("/v1/sandboxes/{id}/exec");
    assert_eq!(server.post(&path, json!({"cmd": "echo"})).await.0, 507);
    assert_eq!(server.status(&id).await, "paused");
    assert_eq!(server.post(&path, json!({"cmd": "echo"})).await.0, 200);
}

#[tokio::test]
async fn a_sandbox_that_its_host_has_paused_is_resumed_before_its_record_says_so() {
    let server = Fixture::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let id = create(&server, json!({"auto_resume": true, "on_timeout": "pause", "timeout_sec": 1})).await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let lists = || server.host.state().calls.iter().filter(|call| *call == "list ").count();
    let before = lists();
    assert_eq!(server.post(&path, json!({"cmd": "echo"})).await.0, 200);
    assert_eq!(lists(), before, "its time is not over");
    server.host.update(|state| state.sandboxes.insert(id.clone(), "paused".into()));
    assert_eq!(server.status(&id).await, "running", "the record does not know it yet");
    // Until its time is over by the record too, the control plane takes that at its word.
    let is_over = |sandbox: &Value| {
        let last: jiff::Timestamp = sandbox["last_active_at"].as_str().unwrap().parse().unwrap();
        jiff::Timestamp::now().duration_since(last).as_secs() >= 2
    };
    server.until(&format!("/v1/sandboxes/{id}"), is_over).await;
    assert_eq!(server.post(&path, json!({"cmd": "echo"})).await.0, 200);
    assert_eq!((resumes(&server, &id), server.host.state().sandboxes[&id].as_str()), (1, "running"));
}
