//! Terminals, and processes that are joined, over WebSockets.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::fake_guest::PID;
use crate::fixture::Fixture;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(server: &Fixture, path: &str) -> Socket {
    connect_async(format!("ws://{}{path}", server.address)).await.unwrap().0
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame: text as JSON, binary as text.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.expect("a frame in time");
        match message {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Binary(bytes))) => return Some(json!(String::from_utf8(bytes.into()).unwrap())),
            Some(Ok(Message::Close(_))) | None => return None,
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_terminal_takes_bytes_and_shows_bytes_and_is_joined_again_by_its_tag() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &format!("/v1/capsules/{id}/pty")).await;
    say(&mut socket, json!({"type": "start", "cmd": "shell", "cols": 100, "rows": 30})).await;
    let started = hear(&mut socket).await.unwrap();
    assert_eq!((&started["type"], &started["pid"]), (&json!("started"), &json!(PID)));
    let tag = started["tag"].as_str().unwrap().to_owned();
    assert!(tag.starts_with("pty-"), "{tag}");
    socket.send(Message::binary("ls\n")).await.unwrap();
    assert_eq!(hear(&mut socket).await.unwrap(), "ls\n");
    say(&mut socket, json!({"type": "resize", "cols": 0, "rows": 5})).await;
    say(&mut socket, json!({"type": "resize", "cols": 120, "rows": 40})).await;
    say(&mut socket, json!({"type": "input", "data": "cHdkCg=="})).await;
    say(&mut socket, json!({"type": "pong"})).await;
    assert_eq!(hear(&mut socket).await.unwrap(), "pwd\n");
    let calls = server.host.state().calls.clone();
    for call in ["terminal 100x30", "start shell", "resize 120x40"] {
        assert!(calls.iter().any(|one| one == call), "{call}: {calls:?}");
    }
    assert!(!calls.iter().any(|one| one == "resize 0x5"));
    drop(socket);

    let mut socket = open(&server, &format!("/v1/sandboxes/{id}/pty")).await;
    say(&mut socket, json!({"type": "connect", "tag": tag})).await;
    assert_eq!(hear(&mut socket).await.unwrap(), json!({"type": "started", "tag": tag, "pid": PID}));
    assert!(server.host.state().killed.is_empty(), "it outlived its socket");
    say(&mut socket, json!({"type": "kill"})).await;
    let mut frames = Vec::new();
    while let Some(frame) = hear(&mut socket).await {
        frames.push(frame);
    }
    assert_eq!(frames.last().unwrap(), &json!({"type": "exit", "exit_code": -1}));
    assert_eq!(server.host.state().killed, [PID]);
}

#[tokio::test]
async fn who_waits_hears_again_and_again_that_the_server_is_there() {
    let server = Fixture::with(|config| config.patience.ping = Duration::from_millis(20)).await;
    let id = server.create().await;
    let mut terminal = open(&server, &format!("/v1/capsules/{id}/pty")).await;
    say(&mut terminal, json!({"type": "start", "cmd": "shell"})).await;
    assert_eq!(hear(&mut terminal).await.unwrap()["type"], "started");
    for _ in 0..3 {
        assert_eq!(hear(&mut terminal).await.unwrap(), json!({"type": "ping"}));
    }
    let mut followed = open(&server, &format!("/v1/capsules/{id}/exec/stream")).await;
    say(&mut followed, json!({"type": "start", "cmd": "sleep"})).await;
    let pinged = async {
        let mut pings = 0;
        while pings < 3 {
            pings += usize::from(matches!(followed.next().await.unwrap().unwrap(), Message::Ping(_)));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), pinged).await.expect("three pings in time");
}

#[tokio::test]
async fn a_kill_just_before_the_end_of_the_socket_is_obeyed() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut socket = open(&server, &format!("/v1/capsules/{id}/pty")).await;
    say(&mut socket, json!({"type": "start", "cmd": "shell"})).await;
    hear(&mut socket).await.unwrap();
    say(&mut socket, json!({"type": "kill"})).await;
    socket.close(None).await.unwrap();
    server.host.until(|state| state.killed == [PID]).await;
}

#[tokio::test]
async fn a_guest_that_is_slow_to_take_input_holds_up_nothing_else() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("type");
    let mut socket = open(&server, &format!("/v1/capsules/{id}/pty")).await;
    say(&mut socket, json!({"type": "start", "cmd": "shell"})).await;
    hear(&mut socket).await.unwrap();
    for _ in 0..40 {
        socket.send(Message::binary("x")).await.unwrap();
    }
    server.host.until(|state| state.calls.iter().any(|call| call == "type ")).await;
    socket.send(Message::Ping("alive".into())).await.unwrap();
    let pong = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(pong, Message::Pong(_)), "{pong:?}");
    gate.add_permits(1000);
    server.host.until(|state| state.typed.len() == 40).await;
    let calls = server.host.state().calls.iter().filter(|call| *call == "type ").count();
    assert!(calls < 40, "what is typed quickly is sent together: {calls}");
}

#[tokio::test]
async fn first_frames_that_make_no_sense_are_fatal_errors() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for frame in [
        Message::text("no"),
        Message::text(r#"{"type":"resize","cols":1,"rows":1}"#),
        Message::text(r#"{"type":"start","cols":0}"#),
        Message::text(r#"{"type":"start","rows":70000}"#),
        Message::text(r#"{"type":"start","cwd":"\u0000"}"#),
        Message::text(r#"{"type":"start","cmd":"shell","cwd":"/missing"}"#),
        Message::text(r#"{"type":"connect","tag":"nobody"}"#),
        Message::binary("ls"),
    ] {
        let mut socket = open(&server, &format!("/v1/capsules/{id}/pty")).await;
        socket.send(frame.clone()).await.unwrap();
        let error = hear(&mut socket).await.unwrap();
        assert_eq!((&error["type"], &error["fatal"]), (&json!("error"), &json!(true)), "{frame:?}");
        assert_eq!(hear(&mut socket).await, None);
    }
}

#[tokio::test]
async fn a_process_is_followed_without_a_first_frame_and_lives_on() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for process in ["job".to_owned(), PID.to_string()] {
        let mut socket = open(&server, &format!("/v1/capsules/{id}/processes/{process}/stream")).await;
        assert_eq!(hear(&mut socket).await.unwrap(), json!({"type": "start", "pid": PID}));
        assert_eq!(hear(&mut socket).await.unwrap(), json!({"type": "stdout", "data": "joined"}));
        say(&mut socket, json!({"type": "stop"})).await;
        socket.close(None).await.unwrap();
    }
    assert!(server.host.state().killed.is_empty());
    let mut socket = open(&server, &format!("/v1/capsules/{id}/processes/nobody/stream")).await;
    assert_eq!(hear(&mut socket).await.unwrap()["type"], "error");
}

#[tokio::test]
async fn a_followed_command_has_no_time_limit_unless_it_names_one() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for surface in ["capsules", "sandboxes"] {
        let mut socket = open(&server, &format!("/v1/{surface}/{id}/exec/stream")).await;
        say(&mut socket, json!({"type": "start", "cmd": "deadline"})).await;
        hear(&mut socket).await.unwrap();
        assert_eq!(hear(&mut socket).await.unwrap()["data"], "none");
    }
}
