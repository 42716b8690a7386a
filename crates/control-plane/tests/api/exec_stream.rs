//! Live output over a WebSocket.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::fake_guest::PID;
use crate::fixture::{Fixture, code};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(server: &Fixture, id: &str) -> Socket {
    let url = format!("ws://{}/v1/sandboxes/{id}/exec/stream", server.address);
    connect_async(url).await.unwrap().0
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next JSON frame, or `None` when the server has closed.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("a frame in time");
        match message {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_))) | None => return None,
            other => panic!("{other:?}"),
        }
    }
}

async fn hear_all(socket: &mut Socket) -> Vec<Value> {
    let mut frames = Vec::new();
    while let Some(frame) = hear(socket).await {
        frames.push(frame);
    }
    frames
}

#[tokio::test]
async fn output_comes_in_frames_and_the_exit_is_last() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "echo", "args": ["hello"]})).await;
    let expected = [
        json!({"type": "start", "pid": PID}),
        json!({"type": "stdout", "data": "hello"}),
        json!({"type": "exit", "exit_code": 0, "status": "exit status 0"}),
    ];
    assert_eq!(hear_all(&mut socket).await, expected);
    assert!(server.host.state().killed.is_empty());
}

#[tokio::test]
async fn characters_stay_whole_and_bytes_stay_exact() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "split"})).await;
    let frames = hear_all(&mut socket).await;
    let data: Vec<_> = frames.iter().filter_map(|frame| frame["data"].as_str()).collect();
    assert_eq!(data, ["a", "\u{20ac}", "b"]);
    assert_eq!(frames.last().unwrap()["exit_code"], 3);

    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "binary", "encoding": "base64"})).await;
    let frames = hear_all(&mut socket).await;
    assert_eq!(frames[1], json!({"type": "stdout", "data": "Yf8AYg==", "encoding": "base64", "next": 4}));
}

#[tokio::test]
async fn place_environment_and_user_are_passed_on() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "about", "cwd": "/srv", "envs": {"A": "1"}, "user": "ann"})).await;
    assert_eq!(hear_all(&mut socket).await[1]["data"], "Basic YW5uOg== /srv A=1");
}

#[tokio::test]
async fn stop_kills_and_the_exit_is_told() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep"})).await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
    say(&mut socket, json!({"type": "stop"})).await;
    let exit = json!({"type": "exit", "exit_code": -1, "status": "signal: killed"});
    assert_eq!(hear_all(&mut socket).await, [exit]);
    assert_eq!(server.host.state().killed, [PID]);
}

#[tokio::test]
async fn the_process_dies_with_the_socket() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for politely in [true, false] {
        server.host.update(|state| state.killed.clear());
        let mut socket = open(&server, &id).await;
        say(&mut socket, json!({"type": "start", "cmd": "sleep", "timeout_sec": -1})).await;
        assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
        if politely {
            socket.close(None).await.unwrap();
        }
        drop(socket);
        server.host.until(|state| state.killed == [PID]).await;
    }
}

#[tokio::test]
async fn a_socket_that_closes_before_the_start_is_known_kills_too() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("start");
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep", "timeout_sec": -1})).await;
    server.host.until(|state| state.calls.contains(&"start sleep".to_owned())).await;
    drop(socket);
    gate.add_permits(1);
    server.host.until(|state| state.killed == [PID]).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_process_up_and_not_our_memory() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "flood", "timeout_sec": -1})).await;
    let flooded = || server.host.state().flooded;
    // Every buffer on the way fills up; then nothing moves any more, which only time can show.
    let still = async {
        loop {
            let before = flooded();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if before > 0 && flooded() == before {
                return before;
            }
        }
    };
    let chunks = tokio::time::timeout(Duration::from_secs(60), still).await.expect("the flood is held up");
    assert!(chunks * (32 << 10) < 64 << 20, "{chunks} chunks are under way");
    for _ in 0..100 {
        hear(&mut socket).await.unwrap();
    }
    drop(socket);
    server.host.until(|state| state.killed == [PID]).await;
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_answered_before_the_upgrade() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let paused = server.create().await;
    server.post(&format!("/v1/sandboxes/{paused}/pause"), json!(null)).await;
    for (id, expected) in [("sbnone", 404), (paused.as_str(), 409)] {
        let url = format!("ws://{}/v1/sandboxes/{id}/exec/stream", server.address);
        let Err(Error::Http(response)) = connect_async(url).await else { panic!("{id} was upgraded") };
        assert_eq!(response.status(), expected);
        assert!(String::from_utf8_lossy(response.body().as_deref().unwrap()).contains("\"error\""));
    }
    let (status, body) = server.get(&format!("/v1/sandboxes/{id}/exec/stream")).await;
    assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"));

    let url = format!("ws://{}/v1/sandboxes/{id}/exec/stream", server.address);
    let mut foreign = url.into_client_request().unwrap();
    foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    let Err(Error::Http(response)) = connect_async(foreign).await else { panic!("a foreign page was upgraded") };
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_bad_start_is_an_error_frame() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (frame, expected) in [
        ("no json", "invalid JSON body"),
        (r#"{"type":"stop"}"#, "the first frame must have the type"),
        (r#"{"type":"start"}"#, "cmd is required"),
        (r#"{"type":"start","cmd":"x","encoding":"latin1"}"#, "encoding must be"),
        (r#"{"type":"start","cmd":"x","cwd":"/missing"}"#, "does not exist"),
        (r#"{"type":"start","cmd":"x","timeout_sec":-2}"#, "timeout_sec must be"),
        (r#"{"type":"start","cmd":"a\u0000b"}"#, "NUL"),
    ] {
        let mut socket = open(&server, &id).await;
        socket.send(Message::text(frame)).await.unwrap();
        let frames = hear_all(&mut socket).await;
        assert_eq!((frames.len(), &frames[0]["type"]), (1, &json!("error")), "{frame}");
        assert!(frames[0]["data"].as_str().unwrap().contains(expected), "{frame}: {frames:?}");
    }
}

#[tokio::test]
async fn the_end_of_the_server_ends_streams() {
    let mut server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep", "timeout_sec": -1})).await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
    let (frames, ()) = tokio::join!(hear_all(&mut socket), server.stop());
    assert_eq!(frames.last().unwrap()["type"], "error");
    assert_eq!(server.host.state().killed, [PID]);
}

#[tokio::test]
async fn a_process_that_is_kept_outlives_its_socket_and_can_still_be_stopped() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep", "keep": true})).await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
    drop(socket);
    let mut socket = open(&server, &id).await;
    say(&mut socket, json!({"type": "start", "cmd": "sleep", "keep": true})).await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "start");
    assert!(server.host.state().killed.is_empty());
    say(&mut socket, json!({"type": "stop"})).await;
    assert_eq!(hear_all(&mut socket).await.last().unwrap()["status"], "signal: killed");
}

#[tokio::test]
async fn a_lost_connection_goes_on_where_it_was() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let url = |from: &str| format!("ws://{}/v1/sandboxes/{id}/processes/job/stream?from={from}", server.address);
    let mut socket = connect_async(url("4")).await.unwrap().0;
    let expected = [
        json!({"type": "start", "pid": PID}),
        json!({"type": "stdout", "data": "NDU2Nzg5", "encoding": "base64", "next": 10}),
        json!({"type": "exit", "exit_code": 4, "status": "exit status 4"}),
    ];
    assert_eq!(hear_all(&mut socket).await, expected);
    let mut socket = connect_async(url("0")).await.unwrap().0;
    assert_eq!(hear_all(&mut socket).await[1], json!({"type": "lost", "bytes": 2, "next": 2}));
    assert!(matches!(connect_async(url("x")).await, Err(Error::Http(answer)) if answer.status() == 400));
}

#[tokio::test]
async fn output_is_read_from_any_place_as_lines() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let lines = async |query: &str| {
        let url = server.url(&format!("/v1/sandboxes/{id}/processes/{PID}/output{query}"));
        let answer = server.http.get(url).send().await.unwrap();
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (http::StatusCode::OK, &"application/x-ndjson".parse().unwrap())
        );
        let text = answer.text().await.unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let all = [
        json!({"type": "lost", "bytes": 2, "next": 2}),
        json!({"type": "stdout", "data": "MjM0NTY3ODk=", "next": 10}),
        json!({"type": "exit", "exit_code": 4, "status": "exit status 4"}),
    ];
    assert_eq!(lines("").await, all);
    assert_eq!(lines("?from=10").await, all[2..]);
    assert_eq!(lines("?from=2&follow=false").await, all[1..2], "an end that was not asked for is not told");
    for (path, status) in [("77/output?from=-1", 400), ("77/output?follow=yes", 400), ("none/output", 404)] {
        let (answer, body) = server.get(&format!("/v1/sandboxes/{id}/processes/{path}")).await;
        assert_eq!(answer.as_u16(), status, "{path} {body}");
    }
}
