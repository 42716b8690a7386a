//! Clients that are slow, on purpose or not, and headers without end: none of them holds anything for long.

use std::io::ErrorKind;
use std::time::Duration;

use futures::SinkExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::fixture::Fixture;

const SOON: Duration = Duration::from_millis(400);
const LATE: Duration = Duration::from_secs(20);

async fn server() -> Fixture {
    Fixture::with(|config| {
        config.patience.header = SOON;
        config.patience.body = SOON;
        config.patience.answer = SOON;
    })
    .await
}

/// Sends bytes, one after the other and without end, until the server has had enough.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    let dripping = async {
        for byte in bytes.iter().chain(std::iter::repeat(&b'x')) {
            let (mut reader, mut writer) = stream.split();
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            match tokio::time::timeout(Duration::from_millis(20), reader.read(&mut [0; 64])).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => panic!("half a request was answered"),
                Err(_) => {}
            }
        }
    };
    tokio::time::timeout(LATE, dripping).await.expect("the server has had enough in time");
}

/// The first answer's beginning.
async fn hear(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 4096];
    let read = tokio::time::timeout(LATE, stream.read(&mut bytes)).await.expect("something comes in time").unwrap();
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

#[tokio::test]
async fn a_header_that_never_ends_ends_the_connection() {
    let server = server().await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    drip(&mut first, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;

    let mut later = TcpStream::connect(server.address).await.unwrap();
    later.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(hear(&mut later).await.starts_with("HTTP/1.1 200"));
    drip(&mut later, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
    assert_eq!(server.get("/health").await.0, 200, "others are served");
}

#[tokio::test]
async fn who_says_nothing_at_all_is_sent_away() {
    let server = server().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let read = tokio::time::timeout(LATE, silent.read(&mut [0; 64])).await.expect("it is closed in time");
    assert!(matches!(read, Ok(0)) || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_connection_may_rest_between_two_requests() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(hear(&mut stream).await.starts_with("HTTP/1.1 200"));
        // Longer than a header may take: that the connection stays is what is tested, and only time can show it.
        tokio::time::sleep(SOON * 2).await;
    }
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_408() {
    let server = server().await;
    let id = server.create().await;
    let form = "--b\r\nContent-Disposition: form-data; name=\"path\"\r\n\r\n/half\r\n\
                --b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf";
    let upload = format!("/v1/sandboxes/{id}/files/write");
    for (path, body) in [("/v1/sandboxes", "{\"vcpus\":"), (upload.as_str(), form)] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n\
             Content-Length: 100000\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = hear(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"code\":\"timeout\""), "{path}: {answer}");
        assert!(answer.contains("\"timeout\":\"idle\""), "{path}: {answer}");
    }
    server.host.until(|state| state.broken_uploads == ["/half"]).await;
}

#[tokio::test]
async fn who_never_reads_an_answer_is_sent_away_and_what_it_asked_for_ends() {
    let server = server().await;
    let id = server.create().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = r#"{"path":"/endless"}"#;
    let length = body.len();
    let request = format!(
        "POST /v1/sandboxes/{id}/files/read HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    server.host.until(|state| state.downloads_ended == 1).await;
    drop(stream);
}

#[tokio::test]
async fn the_same_holds_for_http2_where_a_connection_moves_although_one_answer_stands_still() {
    let server = server().await;
    let id = server.create().await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = server.url(&format!("/v1/sandboxes/{id}/files/read"));
    let standing = http2.post(url).body(r#"{"path":"/endless"}"#).send().await.unwrap();
    assert_eq!((standing.status().as_u16(), standing.version()), (200, reqwest::Version::HTTP_2));
    let others = async {
        while server.host.state().downloads_ended == 0 {
            assert_eq!(http2.get(server.url("/health")).send().await.unwrap().status(), 200);
        }
    };
    tokio::time::timeout(LATE, others).await.expect("the answer that nobody takes is given up");
    let length = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let health = length.get(server.url("/health")).send().await.unwrap();
    assert!(health.content_length().is_some_and(|length| length > 0), "an ordinary answer is as it was");
}

#[tokio::test]
async fn who_follows_a_command_may_stop_reading_for_a_while() {
    let server = server().await;
    let id = server.create().await;
    let (mut socket, _) =
        connect_async(format!("ws://{}/v1/sandboxes/{id}/exec/stream", server.address)).await.unwrap();
    let start = json!({"type": "start", "cmd": "flood", "timeout_sec": -1});
    socket.send(Message::text(start.to_string())).await.unwrap();
    server.host.until(|state| state.flooded > 10).await;
    // Much longer than an answer may stand still.
    tokio::time::sleep(SOON * 4).await;
    assert!(server.host.state().killed.is_empty(), "the command was not ended");
}

#[tokio::test]
async fn a_header_may_be_large_but_not_any_size() {
    let server = server().await;
    for (bytes, status) in [(16 << 10, 200), (200 << 10, 431)] {
        let response = server.http.get(server.url("/health")).header("x-large", "x".repeat(bytes)).send().await;
        assert_eq!(response.unwrap().status().as_u16(), status, "{bytes}");
    }
}
