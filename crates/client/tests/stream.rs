//! Commands with live output against a real WebSocket server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod server;

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use client::{Client, Error, ExecEvent, ExecStart, ExecStream, Exit};
use serde_json::{Value, json};
use server::serve;
use tokio::sync::oneshot;

fn command() -> ExecStart {
    ExecStart {
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), "x".into()],
        envs: BTreeMap::new(),
        cwd: None,
        user: None,
        keep: false,
        timeout: None,
    }
}

/// A server whose exec stream is `script`.
async fn scripted<F>(script: fn(WebSocket) -> F) -> Client
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(script) };
    serve(Router::new().route("/v1/sandboxes/{id}/exec/stream", any(upgrade))).await
}

async fn start(client: &Client) -> Result<ExecStream, Error> {
    client.exec_stream(&"sb1".parse().unwrap(), &command()).await
}

async fn send(socket: &mut WebSocket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

async fn receive(socket: &mut WebSocket) -> Value {
    let Some(Ok(Message::Text(text))) = socket.recv().await else { panic!("no text frame") };
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn output_arrives_as_exact_bytes_and_ends_with_the_exit_code() {
    let client = scripted(|mut socket: WebSocket| async move {
        let start = receive(&mut socket).await;
        let expected = json!({"type": "start", "cmd": "/bin/sh", "args": ["-c", "x"], "timeout_sec": -1,
            "encoding": "base64"});
        assert_eq!(start, expected);
        send(&mut socket, json!({"type": "start", "pid": 42})).await;
        socket.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
        assert!(matches!(socket.recv().await, Some(Ok(Message::Pong(_)))), "a ping is answered");
        send(&mut socket, json!({"type": "stdout", "data": "AP8K", "encoding": "base64"})).await;
        send(&mut socket, json!({"type": "news", "data": 1})).await;
        send(&mut socket, json!({"type": "stderr", "data": "plain"})).await;
        send(&mut socket, json!({"type": "exit", "exit_code": 7})).await;
    })
    .await;
    let mut stream = start(&client).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.unwrap());
    }
    let expected = [
        ExecEvent::Started(42),
        ExecEvent::Stdout(Bytes::from_static(&[0, 255, b'\n'])),
        ExecEvent::Stderr(Bytes::from_static(b"plain")),
        ExecEvent::Exit(Exit::Code(7)),
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn a_time_limit_is_sent_in_seconds() {
    let wish = serde_json::to_value(ExecStart { timeout: Some(5), ..command() }).unwrap();
    assert_eq!(wish["timeout_sec"], 5);
}

#[tokio::test]
async fn an_error_frame_is_the_last_word() {
    let client = scripted(|mut socket: WebSocket| async move {
        send(&mut socket, json!({"type": "error", "data": "sandbox is not running (status: paused)"})).await;
    })
    .await;
    let mut stream = start(&client).await.unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "sandbox is not running (status: paused)");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_close_before_the_exit_code_is_an_error() {
    let client = scripted(|mut socket: WebSocket| async move {
        send(&mut socket, json!({"type": "start", "pid": 1})).await;
    })
    .await;
    let mut stream = start(&client).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ExecEvent::Started(1));
    assert!(matches!(stream.next().await, Some(Err(Error::BrokeOff { .. }))));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn stop_reaches_the_server_and_the_end_still_comes() {
    let client = scripted(|mut socket: WebSocket| async move {
        receive(&mut socket).await;
        assert_eq!(receive(&mut socket).await, json!({"type": "stop"}));
        send(&mut socket, json!({"type": "exit", "exit_code": -1, "status": "signal: killed"})).await;
    })
    .await;
    let mut stream = start(&client).await.unwrap();
    stream.stop().await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ExecEvent::Exit(Exit::Signal(9)));
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let (closed, is_closed) = oneshot::channel::<()>();
    let closed = std::sync::Arc::new(std::sync::Mutex::new(Some(closed)));
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(async move |mut socket| {
            while let Some(Ok(_)) = socket.recv().await {}
            closed.lock().unwrap().take();
        })
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/exec/stream", any(upgrade))).await;
    drop(start(&client).await.unwrap());
    assert!(is_closed.await.is_err(), "the server's side of the socket ended");
}

#[tokio::test]
async fn a_refusal_before_the_upgrade_is_the_servers_error() {
    let refuse = || async {
        let body = json!({"error": {"code": "not_found", "message": "sandbox not found"}});
        (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
    };
    let client = serve(Router::new().route("/v1/sandboxes/{id}/exec/stream", any(refuse))).await;
    let Error::Api(error) = start(&client).await.unwrap_err() else { panic!("not the server's error") };
    assert_eq!((error.status, error.code.as_str()), (404, "not_found"));
}

#[tokio::test]
async fn an_absent_server_is_named_with_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = start(&Client::new(&format!("http://{address}")).unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("no server at http://127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_command_that_is_kept_is_followed_again_from_where_the_connection_was_lost() {
    let first = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(|mut socket: WebSocket| async move {
            assert_eq!(receive(&mut socket).await["keep"], true);
            send(&mut socket, json!({"type": "start", "pid": 42})).await;
            send(&mut socket, json!({"type": "stdout", "data": "YWJj", "encoding": "base64", "next": 3})).await;
        })
    };
    let again = |uri: axum::http::Uri, upgrade: WebSocketUpgrade| async move {
        assert_eq!(uri.query(), Some("from=3"));
        upgrade.on_upgrade(|mut socket: WebSocket| async move {
            send(&mut socket, json!({"type": "start", "pid": 42})).await;
            send(&mut socket, json!({"type": "lost", "bytes": 2, "next": 5})).await;
            send(&mut socket, json!({"type": "stderr", "data": "ZA==", "encoding": "base64", "next": 6})).await;
            send(&mut socket, json!({"type": "exit", "exit_code": 0})).await;
        })
    };
    let routes = Router::new()
        .route("/v1/sandboxes/{id}/exec/stream", any(first))
        .route("/v1/sandboxes/{id}/processes/42/stream", any(again));
    let client = serve(routes).await;
    let id = "sb1".parse().unwrap();
    let mut stream = client.exec_stream(&id, &ExecStart { keep: true, ..command() }).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), ExecEvent::Started(42));
    assert_eq!(stream.next().await.unwrap().unwrap(), ExecEvent::Stdout(Bytes::from_static(b"abc")));
    let lost = stream.next().await.unwrap().unwrap_err();
    assert!(lost.is_connection() && stream.place() == 3, "{lost}");
    let mut stream = client.follow_again(&id, "42", stream.place()).await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.unwrap());
    }
    let expected = [
        ExecEvent::Started(42),
        ExecEvent::Lost(2),
        ExecEvent::Stderr(Bytes::from_static(b"d")),
        ExecEvent::Exit(Exit::Code(0)),
    ];
    assert_eq!((&events[..], stream.place()), (&expected[..], 6));
}
