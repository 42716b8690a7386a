//! The second surface: what differs from the first, and the calls that came with it.

use std::time::Duration;

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fake_guest::PID;
use crate::fixture::{Fixture, code};

async fn capsule(server: &Fixture) -> String {
    let (status, capsule) = server.post("/v1/capsules", json!({"template": "minimal"})).await;
    assert_eq!(status, 201, "{capsule}");
    capsule["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_capsule_has_defaults_of_its_own() {
    let server = Fixture::start().await;
    for (given, expected) in [(json!({}), 0), (json!({"timeout_sec": 5}), 60), (json!({"timeout_sec": 61}), 61)] {
        let (status, capsule) = server.post("/v1/capsules", given).await;
        assert_eq!(status, 201, "{capsule}");
        assert_eq!((&capsule["template"], &capsule["timeout_sec"]), (&json!("minimal-ubuntu"), &json!(expected)));
        assert_eq!(capsule["disk_size_mb"], 5120);
        let on_host = server.host.state().on_expiry[capsule["id"].as_str().unwrap()];
        assert_eq!(on_host, "pause");
    }
    let id = server.create().await;
    assert_eq!(server.host.state().on_expiry[&id], "destroy");
}

#[tokio::test]
async fn both_surfaces_show_the_same_sandbox() {
    let server = Fixture::start().await;
    let id = capsule(&server).await;
    let (_, sandbox) = server.get(&format!("/v1/sandboxes/{id}")).await;
    let (_, mut capsule) = server.get(&format!("/v1/capsules/{id}")).await;
    capsule.as_object_mut().unwrap().remove("disk_size_mb").unwrap();
    let disk_used = capsule.as_object_mut().unwrap().remove("disk_used_mb").unwrap();
    assert_eq!(disk_used, 6, "what its host says, rounded up");
    assert_eq!(capsule, sandbox);
    assert!(server.get("/v1/capsules").await.1[0].get("disk_used_mb").is_none(), "a list asks no host");
    for (action, becomes) in [("pause", "paused"), ("resume", "running")] {
        let (status, capsule) = server.post(&format!("/v1/capsules/{id}/{action}"), json!({})).await;
        assert_eq!((status.as_u16(), &capsule["status"]), (200, &json!(becomes)));
    }
    assert_eq!(server.send(Method::DELETE, &format!("/v1/capsules/{id}/"), None).await.0, 204);
    assert_eq!(server.get(&format!("/v1/capsules/{id}")).await.1["status"], "stopped");
    assert_eq!(server.get("/v1/capsules").await.1, json!([]), "what is gone is not listed");
    assert_eq!(server.get("/v1/capsules?status=stopped").await.1[0]["id"], json!(id));
}

#[tokio::test]
async fn a_capsule_is_shown_without_its_disk_while_its_host_does_not_answer() {
    let mut server = Fixture::start().await;
    let id = capsule(&server).await;
    server.stop_host();
    let (status, capsule) = server.get(&format!("/v1/capsules/{id}")).await;
    assert_eq!(status, 200);
    assert!(capsule.get("disk_used_mb").is_none(), "{capsule}");
}

#[tokio::test]
async fn work_that_takes_longer_is_answered_with_how_far_it_is_and_goes_on() {
    let server = Fixture::with(|config| config.limits.capsule_answer = Duration::from_millis(50)).await;
    let gate = server.host.hold("create");
    let (status, capsule) = server.post("/v1/capsules", json!({})).await;
    assert_eq!((status.as_u16(), &capsule["status"]), (202, &json!("pending")));
    let id = capsule["id"].as_str().unwrap();
    gate.add_permits(1);
    server.until_status(id, "running").await;
    let gate = server.host.hold("pause");
    let (status, capsule) = server.post(&format!("/v1/capsules/{id}/pause"), json!({})).await;
    assert_eq!((status.as_u16(), &capsule["status"]), (202, &json!("pausing")));
    gate.add_permits(1);
    server.until_status(id, "paused").await;
}

#[tokio::test]
async fn errors_have_the_codes_that_clients_of_capsules_know() {
    let server = Fixture::start().await;
    let id = capsule(&server).await;
    for (error, status, expected) in [
        (ErrorCode::Unavailable, 503, "host_unavailable"),
        (ErrorCode::DeadlineExceeded, 504, "agent_error"),
        (ErrorCode::ResourceExhausted, 507, "agent_error"),
        (ErrorCode::Unimplemented, 501, "agent_error"),
        (ErrorCode::Internal, 502, "agent_error"),
        (ErrorCode::FailedPrecondition, 409, "conflict"),
        (ErrorCode::NotFound, 404, "not_found"),
        (ErrorCode::InvalidArgument, 400, "invalid_request"),
    ] {
        server.host.fail("exec", error, "no");
        let (answered, body) = server.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "echo"})).await;
        assert_eq!((answered.as_u16(), code(&body)), (status, expected));
        assert!(body["request_id"].is_string());
    }
}

#[tokio::test]
async fn a_program_in_the_background_is_found_and_ended_by_its_tag() {
    let server = Fixture::start().await;
    let id = capsule(&server).await;
    for surface in ["capsules", "sandboxes"] {
        let one = format!("/v1/{surface}/{id}");
        let body = json!({"cmd": "sleep", "background": true, "tag": "job", "timeout_sec": 1});
        let (status, started) = server.post(&format!("{one}/exec"), body).await;
        let expected = json!({"sandbox_id": id, "cmd": "sleep", "pid": PID, "tag": "job"});
        assert_eq!((status.as_u16(), started), (202, expected));
        let (_, list) = server.get(&format!("{one}/processes")).await;
        let process = json!({"pid": PID, "tag": "job", "cmd": "echo", "args": ["9"]});
        assert_eq!(list, json!({"processes": [process]}));
        assert!(server.host.state().killed.is_empty(), "nobody follows it, and it lives");
        let end = async |process: &str| server.send(Method::DELETE, &format!("{one}/processes/{process}"), None).await;
        assert_eq!(end("job?signal=SIGTERM").await.0, 204);
        assert_eq!(end(&PID.to_string()).await.0, 204);
        assert_eq!(end("job?signal=SIGHUP").await.0, 400);
        assert_eq!(end("nobody").await.0, 404);
        assert_eq!(end("123").await.0, 404);
        server.host.update(|state| assert_eq!(state.killed.drain(..).len() + state.terminated.drain(..).len(), 2));
    }
    let (_, started) =
        server.post(&format!("/v1/capsules/{id}/exec"), json!({"cmd": "sleep", "background": true})).await;
    assert!(started["tag"].as_str().unwrap().starts_with("proc-"), "{started}");
    for tag in ["12", "a b", "\u{e4}", &"t".repeat(65)] {
        let body = json!({"cmd": "sleep", "background": true, "tag": tag});
        assert_eq!(server.post(&format!("/v1/capsules/{id}/exec"), body).await.0, 400, "{tag}");
    }
}

#[tokio::test]
async fn directories_are_listed_made_and_removed() {
    let server = Fixture::start().await;
    let id = capsule(&server).await;
    let call = async |action: &str, body: Value| server.post(&format!("/v1/capsules/{id}/files/{action}"), body).await;
    let (status, list) = call("list", json!({"path": "/home", "depth": 3})).await;
    assert_eq!((status.as_u16(), list["entries"].as_array().unwrap().len()), (200, 2));
    let user = json!({
        "name": "user", "path": "/home/user", "type": "directory", "size": 4096, "mode": 0o755,
        "permissions": "drwxr-xr-x", "owner": "root", "group": "root", "modified_at": 0,
    });
    assert_eq!(list["entries"][0], user);
    let link = &list["entries"][1];
    assert_eq!((&link["type"], &link["symlink_target"]), (&json!("symlink"), &json!("/nowhere")));
    assert!(server.host.state().calls.contains(&"list_dir /home 3".to_owned()));
    assert_eq!(call("list", json!({"path": "/none"})).await.0, 404);
    assert_eq!(call("list", json!({"path": "/home", "depth": 101})).await.0, 400);
    let (status, made) = call("mkdir", json!({"path": "/home/new"})).await;
    assert_eq!((status.as_u16(), &made["entry"]["path"]), (200, &json!("/home/new")));
    let (status, body) = call("mkdir", json!({"path": "/home"})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "conflict"));
    assert_eq!(call("remove", json!({"path": "/home/user"})).await.0, 204);
    let (status, body) = call("remove", json!({"path": "/none"})).await;
    assert_eq!((status.as_u16(), code(&body)), (404, "not_found"));
    assert_eq!(call("remove", json!({})).await.0, 400);
}

#[tokio::test]
async fn large_files_have_no_limit_on_the_stream_routes() {
    let server = Fixture::with(|config| config.limits.upload = 10).await;
    let id = capsule(&server).await;
    let send = async |route: &str| {
        let part = reqwest::multipart::Part::bytes(vec![b'x'; 1000]);
        let form = reqwest::multipart::Form::new().text("path", "/big").part("file", part);
        let request = server.http.post(server.url(&format!("/v1/capsules/{id}/files/{route}"))).multipart(form);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(send("write").await, 413);
    assert_eq!(send("stream/write").await, 204);
    let request = server.http.post(server.url(&format!("/v1/capsules/{id}/files/stream/read")));
    let answer = request.body(json!({"path": "/big"}).to_string()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 1000));
    assert_eq!(server.send(Method::POST, &format!("/v1/capsules/{id}/ping"), None).await.0, 204);
}
