//! Every code of the host agent reaches the client as the status that stands for it.

use std::sync::Arc;

use connectrpc::ErrorCode;
use control_plane::HostAgentAddress;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::fake_host::FakeHost;
use crate::fixture::{Fixture, code};

#[tokio::test]
async fn every_connect_code_has_its_status() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (failure, status, expected) in [
        (ErrorCode::Canceled, 502, "agent_error"),
        (ErrorCode::Unknown, 502, "agent_error"),
        (ErrorCode::InvalidArgument, 400, "invalid_request"),
        (ErrorCode::DeadlineExceeded, 504, "timeout"),
        (ErrorCode::NotFound, 404, "not_found"),
        (ErrorCode::AlreadyExists, 409, "conflict"),
        (ErrorCode::PermissionDenied, 403, "forbidden"),
        (ErrorCode::ResourceExhausted, 507, "no_space"),
        (ErrorCode::FailedPrecondition, 409, "conflict"),
        (ErrorCode::Aborted, 409, "conflict"),
        (ErrorCode::OutOfRange, 400, "invalid_request"),
        (ErrorCode::Unimplemented, 501, "unimplemented"),
        (ErrorCode::Internal, 502, "agent_error"),
        (ErrorCode::Unavailable, 503, "unavailable"),
        (ErrorCode::DataLoss, 502, "agent_error"),
        (ErrorCode::Unauthenticated, 502, "agent_error"),
    ] {
        for (method, path, body) in
            [("exec", "exec", json!({"cmd": "echo"})), ("read", "files/read", json!({"path": "/x"}))]
        {
            server.host.fail(method, failure, "as scripted");
            let (answered, body) = server.post(&format!("/v1/sandboxes/{id}/{path}"), body).await;
            assert_eq!((answered.as_u16(), code(&body)), (status, expected), "{failure:?} from {path}");
            let message = body["error"]["message"].as_str().unwrap();
            assert_eq!(message, format!("{}: as scripted", failure.as_str()));
        }
    }
}

#[tokio::test]
async fn an_error_names_the_request() {
    let server = Fixture::start().await;
    let request = server.http.get(server.url("/v1/sandboxes/none")).header("X-Request-Id", "my-1");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "my-1");
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.text().await.unwrap();
    assert!(text.ends_with("}\n") && text.contains(r#""request_id":"my-1""#), "{text}");

    let forged = server.http.get(server.url("/health")).header("X-Request-Id", "a b\"");
    let given = forged.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(given.starts_with("req-"), "{given}");
}

#[tokio::test]
async fn a_host_agent_is_reached_over_tcp_too() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(loopback).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let host = Arc::new(FakeHost::default());
        let router = host.router();
        let _served = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
        let server = Fixture::with(|config| config.host_agent = HostAgentAddress::Http(address.parse().unwrap())).await;
        let id = server.create().await;
        assert_eq!(host.state().sandboxes[&id], "running");
        let exec = format!("/v1/sandboxes/{id}/exec");
        for body in [json!({"cmd": "echo", "args": ["x"]}), json!({"cmd": "echo", "args": ["x"], "cwd": "/"})] {
            assert_eq!(server.post(&exec, body).await.0, 200);
        }
    }
}

#[tokio::test]
async fn health_follows_the_host_agent() {
    let mut server = Fixture::start().await;
    let (status, health) = server.get("/health").await;
    assert_eq!(status, 200);
    assert_eq!((&health["accelerator"], &health["vmm_version"]), (&json!("tcg"), &json!("10.0.2")));

    server.stop_host();
    let (status, body) = server.get("/health").await;
    assert_eq!((status.as_u16(), code(&body)), (503, "host_unavailable"));
    let (status, body) = server.post("/v1/sandboxes", json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (503, "host_unavailable"));
    assert_eq!(server.get("/v1/sandboxes").await.0, 200, "what is recorded can still be read");

    server.start_host();
    assert_eq!(server.get("/health").await.0, 200, "a lost connection is made anew");
    server.create().await;
}
