//! The server's end: what is under way has time to finish, what comes later is refused, and nothing lasts for ever.

use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::fixture::{Fixture, answer, code};

#[tokio::test]
async fn a_command_under_way_finishes_and_new_requests_are_refused() {
    let mut server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("exec");
    let body = json!({"cmd": "echo", "args": ["done"]}).to_string();
    let exec = tokio::spawn(server.http.post(server.url(&format!("/v1/sandboxes/{id}/exec"))).body(body).send());
    server.host.until(|state| state.calls.iter().any(|call| call.starts_with("exec"))).await;
    server.begin_stop();
    let refused = async {
        loop {
            let response = server.http.get(server.url("/health")).send().await.unwrap();
            if response.status() == 503 {
                return response;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), refused).await.expect("it refuses soon");
    assert_eq!(
        (&refused.headers()["retry-after"], &refused.headers()["connection"]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    let (_, body) = answer(refused).await;
    assert!(code(&body) == "stopping" && body["request_id"].is_string(), "{body}");
    assert_eq!(server.post("/v1/sandboxes", json!({})).await.0, 503);
    gate.add_permits(1);
    let (status, body) = answer(exec.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), &body["stdout"]), (200, &json!("done\n")));
    server.ended().await;
    assert!(server.http.get(server.url("/health")).send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn what_does_not_end_is_ended() {
    let mut server = Fixture::with(|config| config.drain = Duration::from_millis(300)).await;
    let id = server.create().await;
    let _gate = server.host.hold("exec");
    let body = json!({"cmd": "echo"}).to_string();
    let exec = tokio::spawn(server.http.post(server.url(&format!("/v1/sandboxes/{id}/exec"))).body(body).send());
    server.host.until(|state| state.calls.iter().any(|call| call.starts_with("exec"))).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let (status, body) = answer(exec.await.unwrap().unwrap()).await;
    assert_eq!((status.as_u16(), code(&body)), (503, "stopping"), "it is told so");
}

#[tokio::test]
async fn a_stream_under_way_finishes_too() {
    let mut server = Fixture::start().await;
    let id = server.create().await;
    let (mut socket, _) =
        connect_async(format!("ws://{}/v1/sandboxes/{id}/exec/stream", server.address)).await.unwrap();
    let start = json!({"type": "start", "cmd": "sleep", "timeout_sec": -1});
    socket.send(Message::text(start.to_string())).await.unwrap();
    server.host.until(|state| state.calls.contains(&"start sleep".to_owned())).await;
    server.begin_stop();
    // The process ends by itself, as far as the server can see.
    server.host.update(|state| state.killed.push(crate::fake_guest::PID));
    let mut last = Value::Null;
    while let Some(Ok(Message::Text(text))) = socket.next().await {
        last = text.parse().unwrap();
    }
    assert_eq!(last["type"], "exit", "{last}");
    server.ended().await;
}

#[tokio::test]
async fn an_idle_connection_holds_nothing_up() {
    let mut server = Fixture::start().await;
    assert_eq!(server.get("/health").await.0, 200);
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop(silent);
}
