//! Create, list, get, pause, resume, delete, alone and against one another.

use connectrpc::ErrorCode;
use serde_json::json;

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn a_sandbox_lives_and_ends() {
    let server = Fixture::start().await;
    let (status, created) = server.post("/v1/sandboxes", json!({"vcpus": 2, "timeout_sec": 0})).await;
    assert_eq!(status, 201);
    assert_eq!((&created["status"], &created["template"]), (&json!("running"), &json!("minimal")));
    assert_eq!((&created["vcpus"], &created["memory_mb"]), (&json!(2), &json!(512)));
    assert_eq!((&created["timeout_sec"], &created["host_ip"]), (&json!(0), &json!("10.11.0.1")));
    assert!(created.get("guest_ip").is_none() && created.get("status_reason").is_none());
    let time = created["created_at"].as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    let id = created["id"].as_str().unwrap();
    assert!(id.len() == 22 && id.starts_with("sb"), "{id}");

    let one = format!("/v1/sandboxes/{id}");
    for (action, becomes) in [
        ("pause", "paused"),
        ("resume", "running"),
        ("stop", "stopped"),
        ("resume", "running"),
        ("pause", "paused"),
        ("stop", "stopped"),
        ("resume", "running"),
    ] {
        let (status, sandbox) = server.post(&format!("{one}/{action}"), json!(null)).await;
        assert_eq!((status.as_u16(), sandbox["status"].as_str()), (200, Some(becomes)));
        assert_eq!(server.get(&format!("{one}/")).await.1["status"], becomes, "a trailing slash changes nothing");
    }
    for _ in 0..2 {
        assert_eq!(server.delete(id).await.0, 204);
        assert_eq!(server.status(id).await, "stopped");
    }
    assert!(server.host.state().sandboxes.is_empty());
    assert_eq!(server.get("/v1/sandboxes/").await.1.as_array().unwrap().len(), 1, "the record stays");
}

#[tokio::test]
async fn an_absent_timeout_is_five_minutes() {
    let server = Fixture::start().await;
    for body in [json!({}), json!({"timeout_sec": null, "template": "", "vcpus": 0, "memory_mb": 0, "disk_mb": 0})] {
        let (_, sandbox) = server.post("/v1/sandboxes/", body).await;
        assert_eq!((&sandbox["timeout_sec"], &sandbox["vcpus"]), (&json!(300), &json!(1)));
    }
}

#[tokio::test]
async fn of_two_pauses_at_once_one_wins() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("pause");
    let path = format!("/v1/sandboxes/{id}/pause");
    let race = async {
        let (one, two) = tokio::join!(server.post(&path, json!(null)), server.post(&path, json!(null)));
        [one, two]
    };
    let open = async {
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("pause"))).await;
        gate.add_permits(10);
    };
    let (answers, ()) = tokio::join!(race, open);
    let mut statuses = answers.map(|(status, _)| status.as_u16());
    statuses.sort();
    assert_eq!(statuses, [200, 409]);
    assert_eq!(server.status(&id).await, "paused");
    assert_eq!(server.host.state().calls.iter().filter(|call| call.starts_with("pause")).count(), 1);
}

#[tokio::test]
async fn a_transient_status_is_seen_and_conflicts() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("pause");
    let pause_path = format!("/v1/sandboxes/{id}/pause");
    let pause = server.post(&pause_path, json!(null));
    let meanwhile = async {
        server.until_status(&id, "pausing").await;
        for action in ["pause", "resume", "exec", "files/read"] {
            let (status, body) = server.post(&format!("/v1/sandboxes/{id}/{action}"), json!({"cmd": "x"})).await;
            assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"), "{action}");
            assert!(body["error"]["message"].as_str().unwrap().contains("(status: pausing)"), "{body}");
        }
        gate.add_permits(1);
    };
    let ((status, _), ()) = tokio::join!(pause, meanwhile);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_pause_that_fails_leaves_the_sandbox_running() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.host.fail("pause", ErrorCode::Internal, "the machine does not stop");
    let (status, body) = server.post(&format!("/v1/sandboxes/{id}/pause"), json!(null)).await;
    assert_eq!((status.as_u16(), code(&body)), (502, "agent_error"));
    assert_eq!(server.status(&id).await, "running");
}

#[tokio::test]
async fn a_delete_during_a_pause_wins() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("pause");
    let pause_path = format!("/v1/sandboxes/{id}/pause");
    let pause = server.post(&pause_path, json!(null));
    let delete = async {
        server.until_status(&id, "pausing").await;
        let deleted = server.delete(&id).await;
        gate.add_permits(1);
        deleted
    };
    let ((paused, body), (deleted, _)) = tokio::join!(pause, delete);
    assert_eq!((paused.as_u16(), code(&body), deleted.as_u16()), (409, "conflict", 204));
    assert_eq!(server.status(&id).await, "stopped");
}

#[tokio::test]
async fn a_delete_during_a_create_wins_and_leaves_nothing() {
    let server = Fixture::start().await;
    let gate = server.host.hold("create");
    let create = server.post("/v1/sandboxes", json!({}));
    let delete = async {
        let id = server.until_listed().await;
        assert_eq!(server.status(&id).await, "pending");
        let deleted = server.delete(&id).await;
        // The worst order: the boot goes on after the host was asked to destroy what it did not have yet.
        gate.add_permits(1);
        (id, deleted.0)
    };
    let ((created, body), (id, deleted)) = tokio::join!(create, delete);
    assert_eq!((created.as_u16(), code(&body), deleted.as_u16()), (409, "conflict", 204));
    assert_eq!(server.status(&id).await, "stopped");
    assert!(server.host.state().sandboxes.is_empty());
}

#[tokio::test]
async fn a_client_that_hangs_up_during_create_gets_its_sandbox_all_the_same() {
    let server = Fixture::start().await;
    let gate = server.host.hold("create");
    let request = server.http.post(server.url("/v1/sandboxes")).body("{}").send();
    let request = tokio::spawn(request);
    let id = server.until_listed().await;
    server.host.until(|state| state.calls.iter().any(|call| call.starts_with("create"))).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    server.until_status(&id, "running").await;
}

#[tokio::test]
async fn a_delete_that_fails_can_be_repeated() {
    let server = Fixture::start().await;
    let id = server.create().await;
    server.host.fail("destroy", ErrorCode::Internal, "the machine does not end");
    let (status, body) = server.delete(&id).await;
    assert_eq!((status.as_u16(), code(&body)), (502, "agent_error"));
    assert_eq!(server.status(&id).await, "stopping");
    assert_eq!(server.delete(&id).await.0, 204);
    assert_eq!(server.status(&id).await, "stopped");
}

#[tokio::test]
async fn many_deletes_at_once_all_succeed() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let deletes = futures::future::join_all((0..8).map(|_| server.delete(&id))).await;
    assert!(deletes.iter().all(|(status, _)| *status == 204), "{deletes:?}");
    assert_eq!(server.status(&id).await, "stopped");
}

#[tokio::test]
async fn a_failed_create_is_an_error_that_can_be_deleted() {
    let server = Fixture::start().await;
    server.host.fail("create", ErrorCode::Internal, "the guest's kernel panicked");
    let (status, body) = server.post("/v1/sandboxes", json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (502, "agent_error"));
    let (_, list) = server.get("/v1/sandboxes").await;
    assert_eq!(list[0]["status"], "error");
    assert!(list[0]["status_reason"].as_str().unwrap().contains("panicked"), "{list}");
    let id = list[0]["id"].as_str().unwrap();
    assert!(server.host.state().calls.contains(&format!("destroy {id}")), "what is half made is removed");
    assert_eq!(server.delete(id).await.0, 204);
    assert_eq!(server.status(id).await, "stopped");
}

#[tokio::test]
async fn a_guest_that_never_answers_leaves_a_record_only_if_something_of_it_may_be_left() {
    let server = Fixture::start().await;
    server.host.fail("create", ErrorCode::DeadlineExceeded, "the guest never answered");
    let (status, body) = server.post("/v1/sandboxes", json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (504, "timeout"));
    assert!(server.host.state().calls.iter().any(|call| call.starts_with("destroy ")), "what is half made is removed");
    assert_eq!(server.get("/v1/sandboxes").await.1, json!([]));

    server.host.fail("create", ErrorCode::DeadlineExceeded, "the guest never answered");
    server.host.fail("destroy", ErrorCode::Internal, "stuck");
    assert_eq!(server.post("/v1/sandboxes", json!({})).await.0.as_u16(), 504);
    assert_eq!(server.get("/v1/sandboxes").await.1[0]["status"], "error");
}

#[tokio::test]
async fn a_refused_create_leaves_no_record() {
    let server = Fixture::start().await;
    for (failure, status, expected) in [
        (ErrorCode::NotFound, 404, "not_found"),
        (ErrorCode::InvalidArgument, 400, "invalid_request"),
        (ErrorCode::FailedPrecondition, 409, "conflict"),
        (ErrorCode::ResourceExhausted, 507, "no_space"),
        (ErrorCode::Unavailable, 503, "unavailable"),
    ] {
        server.host.fail("create", failure, "no");
        let (answered, body) = server.post("/v1/sandboxes", json!({})).await;
        assert_eq!((answered.as_u16(), code(&body)), (status, expected));
    }
    assert_eq!(server.get("/v1/sandboxes").await.1, json!([]));
}
