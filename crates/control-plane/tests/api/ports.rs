//! Traffic for ports of guests.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use connectrpc::ErrorCode;
use futures::future::join_all;
use futures::{SinkExt, StreamExt, stream};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use crate::fixture::{Fixture, code};

const PORT: u16 = 8000;
const UNKNOWN: &str = "sb00000000000000000000";

/// What a request looked like in the guest.
async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let body = body.collect().await.unwrap().to_bytes();
    let seen = json!({
        "method": parts.method.as_str(),
        "uri": parts.uri.to_string(),
        "headers": headers,
        "bytes": body.len(),
    });
    ([("x-request-id", "the guest's own")], axum::Json(seen)).into_response()
}

fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1 << 16]))))
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.protocols(["chat"]).on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if !matches!(message, Message::Text(_) | Message::Binary(_)) || socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// A guest's service, which every sandbox has at its port.
async fn service(server: &Fixture) {
    let router = Router::new()
        .route("/endless", get(async || endless()))
        .route("/silent", get(async || std::future::pending::<()>().await))
        .route("/away", get(async || ([("location", "http://localhost:8000/there/?a=b")], http::StatusCode::FOUND)))
        .route("/ws", any(websocket))
        .fallback(echo);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    server.host.update(|state| state.ports.insert(PORT, address));
}

async fn started() -> (Fixture, String) {
    let server = Fixture::start().await;
    service(&server).await;
    let id = server.create().await;
    (server, id)
}

fn name(port: u16, id: &str) -> String {
    format!("{port}-{id}.sandboxes.example")
}

/// A request that names a port in its Host.
fn request(server: &Fixture, host: &str, path: &str) -> reqwest::RequestBuilder {
    server.http.get(server.url(path)).header("host", host)
}

async fn json_of(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_request_reaches_the_port_that_its_host_names_as_it_was_sent() {
    let (server, id) = started().await;
    let host = name(PORT, &id);
    let key = format!("e2b_{}", "0a".repeat(20));
    let request = server
        .http
        .put(server.url("/v1/sandboxes/a%20b//?q=%41&q#"))
        .header("host", &host)
        .header("x-api-key", &key)
        .header("x-own", "1")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .body(vec![b'x'; 300_000]);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "the guest's own");
    let seen: Value = answer.json().await.unwrap();
    assert_eq!((&seen["method"], &seen["bytes"]), (&json!("PUT"), &json!(300_000)));
    assert_eq!(seen["uri"], "/v1/sandboxes/a%20b//?q=%41&q");
    let headers = &seen["headers"];
    assert_eq!((&headers["host"], &headers["x-own"]), (&json!(host), &json!("1")));
    assert_eq!((&headers["x-forwarded-host"], &headers["x-forwarded-proto"]), (&json!(host), &json!("http")));
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    for hidden in ["x-api-key", "x-hop"] {
        assert_eq!(headers[hidden], Value::Null, "{hidden}");
    }
}

#[tokio::test]
async fn headers_name_a_port_where_the_host_does_not() {
    let (server, id) = started().await;
    let named = |id: &str, port: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("e2b-sandbox-id", id.parse().unwrap());
        headers.insert("e2b-sandbox-port", port.parse().unwrap());
        server.http.get(server.url("/v1/sandboxes")).headers(headers)
    };
    let (status, seen) = json_of(named(&id, "8000")).await;
    assert_eq!((status, &seen["uri"]), (200, &json!("/v1/sandboxes")), "{seen}");
    assert_eq!(json_of(named(&id, "0")).await, (400, json!("Invalid sandbox port\n")));
    assert_eq!(json_of(named("../x", "1")).await, (400, json!("Invalid sandbox ID\n")));
    let lone = server.http.get(server.url("/")).header("e2b-sandbox-id", &id);
    assert_eq!(json_of(lone).await, (400, json!("missing header\n")));
    let (_, list) = server.get("/v1/sandboxes").await;
    assert_eq!(list[0]["id"], id, "without them it is the API");
}

#[tokio::test]
async fn what_cannot_be_reached_is_answered_in_the_words_that_each_client_knows() {
    let (server, id) = started().await;
    let paused = server.create().await;
    server.post(&format!("/v1/sandboxes/{paused}/pause"), json!({})).await;
    let gone = server.create().await;
    server.delete(&gone).await;
    for (port, id, text, status, words) in [
        (PORT, UNKNOWN, 404, 502, "The sandbox was not found"),
        (PORT, &*gone, 409, 502, "The sandbox was not found"),
        (PORT, &*paused, 409, 502, "The sandbox was not found"),
        (9, &*id, 502, 502, "The sandbox is running but port is not open"),
        (49981, &*id, 404, 404, "This port is reserved for the sandbox's own agent"),
    ] {
        let host = name(port, id);
        let (found, body) = json_of(request(&server, &host, "/init")).await;
        assert_eq!((found, &body["message"], &body["code"]), (status, &json!(words), &json!(status)), "{host}");
        assert_eq!(body["sandboxId"], id);
        let (found, body) = json_of(request(&server, &host, "/").header("x-api-key", "any")).await;
        assert_eq!(found, text, "{host}: {body}");
        assert!(body.is_string(), "{host}: {body}");
        let browser = request(&server, &host, "/").header("user-agent", "Mozilla/5.0").header("accept", "text/html");
        let (found, page) = json_of(browser).await;
        assert!(found == status && page.as_str().unwrap().contains(words), "{host}: {page}");
    }
    let bad = request(&server, &name(PORT, &id).replace("8000", "70000"), "/");
    assert_eq!(json_of(bad).await, (400, json!("Invalid sandbox port\n")));
    assert_eq!(request(&server, "unknown.example", "/").send().await.unwrap().status(), 421, "no sandbox's name");
}

#[tokio::test]
async fn a_service_that_speaks_no_http_is_told_as_such() {
    let (server, id) = started().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.host.update(|state| state.ports.insert(1, listener.local_addr().unwrap()));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[0xff; 1 << 18]).await.unwrap();
        }
    });
    let (status, body) = json_of(request(&server, &name(1, &id), "/")).await;
    assert_eq!((status, &body["code"]), (502, &json!(502)), "{body}");
    server.host.fail("port", ErrorCode::Unavailable, "the host agent is shutting down");
    assert_eq!(json_of(request(&server, &name(PORT, &id), "/")).await.0, 503);
}

#[tokio::test]
async fn a_location_that_a_guest_has_for_itself_is_one_that_its_client_can_reach() {
    let (server, id) = started().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client.get(server.url("/away")).header("host", name(PORT, &id)).send().await.unwrap();
    assert_eq!(answer.headers()["location"], "/there/?a=b");
}

#[tokio::test]
async fn http2_is_answered_from_services_that_speak_http1() {
    let (server, id) = started().await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}/a?b", name(PORT, &id)))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Body::from("text"))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.version(), answer.status()), (http::Version::HTTP_2, http::StatusCode::OK));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let seen: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&seen["uri"], &seen["bytes"]), (&json!("/a?b"), &json!(4)));
    assert_eq!(seen["headers"]["cookie"], "a=1; b=2");
    assert_eq!(seen["headers"]["host"], name(PORT, &id));
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_for_the_guest_too() {
    let (server, id) = started().await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    // The client learns from the first answer that the server knows how.
    let first = http::Request::get(format!("http://{}/", name(PORT, &id))).body(Body::empty()).unwrap();
    sender.send_request(first).await.unwrap().into_body().collect().await.unwrap();
    let mut request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://{}/ws", name(PORT, &id)))
        .header("sec-websocket-version", "13")
        .body(Body::empty())
        .unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    let mut socket = tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await;
    socket.send(Frame::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn open_socket(address: SocketAddr, host: &str, path: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    request.headers_mut().insert("host", host.parse().unwrap());
    request.headers_mut().insert("sec-websocket-protocol", "chat".parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await?;
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    Ok(socket)
}

#[tokio::test]
async fn a_websocket_goes_both_ways_until_the_sandbox_is_paused_or_deleted() {
    let (server, id) = started().await;
    for end in ["pause", "delete"] {
        let mut socket = open_socket(server.address, &name(PORT, &id), "/ws").await.unwrap();
        for frame in [Frame::text("hello"), Frame::binary(vec![7; 300_000])] {
            socket.send(frame.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), frame);
        }
        if end == "pause" {
            assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.0, 200);
        } else {
            assert_eq!(server.delete(&id).await.0, 204);
        }
        let last = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("it ends at once");
        assert!(!matches!(last, Some(Ok(Frame::Text(_) | Frame::Binary(_)))), "{last:?}");
        if end == "pause" {
            assert_eq!(server.post(&format!("/v1/sandboxes/{id}/resume"), json!({})).await.0, 200);
        }
    }
    let Err(Error::Http(refused)) = open_socket(server.address, &name(PORT, UNKNOWN), "/ws").await else { panic!() };
    assert_eq!(refused.status(), 502);
}

#[tokio::test]
async fn what_is_under_way_breaks_off_when_the_sandbox_is_deleted() {
    let (server, id) = started().await;
    let mut endless = request(&server, &name(PORT, &id), "/endless").send().await.unwrap();
    endless.chunk().await.unwrap().unwrap();
    let silent = tokio::spawn(request(&server, &name(PORT, &id), "/silent").send());
    server.host.until(|state| state.joined == 2).await;
    assert_eq!(server.delete(&id).await.0, 204);
    let rest = async {
        while endless.chunk().await?.is_some() {}
        Ok::<_, reqwest::Error>(())
    };
    let rest = tokio::time::timeout(Duration::from_secs(5), rest).await.expect("it ends at once");
    assert!(rest.is_err(), "a part is not taken for the whole");
    assert_eq!(silent.await.unwrap().unwrap().status(), 502);
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_guest_and_nothing_grows() {
    let (server, id) = started().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /endless HTTP/1.1\r\nhost: {}\r\n\r\n", name(PORT, &id));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut some = vec![0; 1 << 20];
    stream.read_exact(&mut some).await.unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200 OK"));
    server.host.until(|state| state.joined == 1).await;
    // A client that leaves gives everything back.
    drop(stream);
    server.host.until(|state| state.joined == 0).await;
}

#[tokio::test]
async fn clients_may_take_an_answer_as_slowly_as_they_like() {
    let server = Fixture::with(|config| config.patience.answer = Duration::from_millis(300)).await;
    service(&server).await;
    let id = server.create().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /endless HTTP/1.1\r\nhost: {}\r\n\r\n", name(PORT, &id));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut some = vec![0; 1 << 16];
    stream.read_exact(&mut some).await.unwrap();
    // Three times as long as a client of the API would have.
    let over = tokio::time::timeout(Duration::from_millis(900), server.host.until(|state| state.joined == 0)).await;
    assert!(over.is_err(), "it is still open");
    for _ in 0..64 {
        stream.read_exact(&mut some).await.unwrap();
    }
}

#[tokio::test]
async fn traffic_wakes_a_sandbox_that_was_made_so_and_many_at_once_wake_it_once() {
    let server = Fixture::start().await;
    service(&server).await;
    let (_, made) = server.post("/v1/sandboxes", json!({"auto_resume": true})).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.0, 200);
    let gate = server.host.hold("resume");
    let host = name(PORT, &id);
    let requests = join_all((0..20).map(|_| json_of(request(&server, &host, "/x"))));
    let release = async {
        server.until_status(&id, "resuming").await;
        gate.add_permits(1);
    };
    let (answers, ()) = tokio::join!(requests, release);
    assert!(answers.iter().all(|(status, seen)| *status == 200 && seen["uri"] == "/x"), "{answers:?}");
    assert_eq!(server.host.calls("resume"), 1);
}

#[tokio::test]
async fn traffic_waits_for_a_sandbox_that_is_being_made() {
    let server = Fixture::start().await;
    service(&server).await;
    let gate = server.host.hold("create");
    let creating = tokio::spawn(server.http.post(server.url("/v1/sandboxes")).body("{}").send());
    let id = server.until_listed().await;
    let host = name(PORT, &id);
    let waiting = json_of(request(&server, &host, "/x"));
    let release = async { gate.add_permits(1) };
    let ((status, _), ()) = tokio::join!(waiting, release);
    assert_eq!(status, 200);
    assert_eq!(creating.await.unwrap().unwrap().status(), 201);
}

#[tokio::test]
async fn a_private_sandbox_asks_for_its_token_and_its_forks_for_the_same() {
    let server = Fixture::start().await;
    service(&server).await;
    let (status, made) = server.post("/v1/sandboxes", json!({"allow_public_traffic": false})).await;
    assert_eq!((status.as_u16(), &made["allow_public_traffic"]), (201, &json!(false)));
    let (id, token) = (made["id"].as_str().unwrap(), made["traffic_access_token"].as_str().unwrap());
    let (_, seen) = server.get(&format!("/v1/sandboxes/{id}")).await;
    assert_eq!((&seen["allow_public_traffic"], &seen["traffic_access_token"]), (&json!(false), &Value::Null));
    let (_, forked) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({"count": 1})).await;
    let child = forked["sandboxes"][0]["id"]
        .as_str()
        .or_else(|| forked[0]["id"].as_str())
        .unwrap_or_else(|| panic!("{forked}"));
    for id in [id, child] {
        let host = name(PORT, id);
        let (status, body) = json_of(request(&server, &host, "/")).await;
        assert_eq!((status, &body["code"]), (403, &json!(403)));
        assert!(body["message"].as_str().unwrap().ends_with("Token header 'e2b-traffic-access-token' is missing"));
        let wrong = token.chars().rev().collect::<String>();
        let (status, body) = json_of(request(&server, &host, "/").header("e2b-traffic-access-token", wrong)).await;
        assert_eq!(status, 403);
        assert!(body["message"].as_str().unwrap().ends_with("in header 'e2b-traffic-access-token' is invalid"));
        let (status, seen) = json_of(request(&server, &host, "/").header("e2b-traffic-access-token", token)).await;
        assert_eq!((status, &seen["headers"]["e2b-traffic-access-token"]), (200, &Value::Null), "{seen}");
    }
}

#[tokio::test]
async fn no_key_is_asked_for_and_the_api_still_asks() {
    let (server, id) = started().await;
    let keys = control_plane::Keys::open(&server.config.store).await.unwrap();
    keys.create("application", None).await.unwrap();
    keys.close().await;
    assert_eq!(json_of(request(&server, &name(PORT, &id), "/x")).await.0, 200);
    let (status, refused) = server.get("/v1/sandboxes").await;
    assert_eq!((status.as_u16(), code(&refused)), (401, "unauthorized"));
}

#[tokio::test]
async fn a_server_that_ends_answers_what_it_has_begun_and_ends_websockets() {
    let (mut server, id) = started().await;
    let mut socket = open_socket(server.address, &name(PORT, &id), "/ws").await.unwrap();
    socket.send(Frame::text("hello")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    server.stop().await;
    let last = tokio::time::timeout(Duration::from_secs(5), socket.next()).await.expect("it has ended");
    assert!(!matches!(last, Some(Ok(Frame::Text(_)))), "{last:?}");
}

#[tokio::test]
async fn a_service_that_neither_answers_nor_takes_anything_is_given_up() {
    let server = Fixture::with(|config| config.guest_patience.service = Duration::from_millis(300)).await;
    service(&server).await;
    let id = server.create().await;
    let (status, body) = json_of(request(&server, &name(PORT, &id), "/silent")).await;
    assert_eq!((status, &body["port"]), (504, &json!(PORT)), "{body}");
    server.host.until(|state| state.joined == 0).await;
    // Nor one that does not read what it is sent: more than all buffers on the way hold.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap();
    server.host.update(|state| state.ports.insert(PORT + 1, address));
    let upload = server.http.post(server.url("/")).header("host", name(PORT + 1, &id)).body(vec![b'x'; 64 << 20]);
    assert_eq!(json_of(upload).await.0, 504);
    // An answer that has begun takes as long as it likes.
    let mut endless = request(&server, &name(PORT, &id), "/endless").send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(endless.chunk().await.unwrap().is_some());
}

#[tokio::test]
async fn servers_in_a_sandbox_see_the_host_that_was_asked_for() {
    let server = Fixture::start().await;
    service(&server).await;
    let create = |host: &str| json!({"templateID": "minimal", "network": {"maskRequestHost": host}});
    let (status, made) = server.post("/v2/sandboxes", create("app-${PORT}.internal:${PORT}")).await;
    assert_eq!(status, 201, "{made}");
    let id = made["sandboxID"].as_str().unwrap();
    let called = name(PORT, id);
    let (_, seen) = json_of(request(&server, &called, "/")).await;
    assert_eq!(seen["headers"]["host"], "app-8000.internal:8000");
    assert_eq!(seen["headers"]["x-forwarded-host"], json!(called));
    let (_, detail) = server.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(detail["network"]["maskRequestHost"], "app-${PORT}.internal:${PORT}");
    let (_, children) = server.post(&format!("/sandboxes/{id}/fork"), json!({})).await;
    let child = children[0]["sandbox"]["sandboxID"].as_str().unwrap_or_else(|| panic!("{children}"));
    let (_, seen) = json_of(request(&server, &name(PORT, child), "/")).await;
    assert_eq!(seen["headers"]["host"], "app-8000.internal:8000");
    let (status, body) = server.post("/v2/sandboxes", create("a b")).await;
    assert_eq!(status, 400, "{body}");
    let (_, plain) = server.post("/v2/sandboxes", create("")).await;
    let called = name(PORT, plain["sandboxID"].as_str().unwrap());
    assert_eq!(json_of(request(&server, &called, "/")).await.1["headers"]["host"], json!(called));
}

/// A guest's service that speaks TLS, with a certificate that it has made itself, and tells what it was asked.
async fn secured_service(server: &Fixture, port: u16) {
    let made = rcgen::generate_simple_self_signed(vec!["whoever.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    server.host.update(|state| state.ports.insert(port, address));
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let Ok(mut connection) = acceptor.accept(connection).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            connection.write_all(&[answer.as_bytes(), &head].concat()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
}

#[tokio::test]
async fn a_port_that_speaks_tls_is_called_that_way_and_no_other_is() {
    let server = Fixture::start().await;
    service(&server).await;
    secured_service(&server, 8443).await;
    let create = async |ports: Value| {
        server.post("/v2/sandboxes", json!({"templateID": "minimal", "network": {"httpsPorts": ports}})).await
    };
    let (status, made) = create(json!([8443, 443])).await;
    assert_eq!(status, 201, "{made}");
    let id = made["sandboxID"].as_str().unwrap();
    let call = async |id: &str, port: u16| {
        let answer = request(&server, &name(port, id), "/x").send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, text) = call(id, 8443).await;
    assert!(status == 200 && text.starts_with("GET /x HTTP/1.1\r\n"), "{status} {text}");
    assert!(text.contains(&format!("host: {}", name(8443, id))), "{text}");
    assert_eq!(call(id, PORT).await.0, 200, "another port is as it is");
    let (_, children) = server.post(&format!("/sandboxes/{id}/fork"), json!({})).await;
    let child = children[0]["sandbox"]["sandboxID"].as_str().unwrap_or_else(|| panic!("{children}"));
    assert_eq!(call(child, 8443).await.0, 200);
    let (status, _) = server.send(http::Method::PUT, &format!("/sandboxes/{id}/network"), Some(json!({}))).await;
    assert_eq!(status, 204);
    let (_, detail) = server.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(detail["network"]["httpsPorts"], json!([443, 8443]), "it is about who comes in, and stays");

    let (_, other) = create(json!([PORT])).await;
    let other = other["sandboxID"].as_str().unwrap();
    for port in [PORT, 8443] {
        assert_eq!(call(other, port).await.0, 502, "{port} does not speak what it is spoken to in");
    }
    for wrong in [json!([49983]), json!([0]), json!([65536]), json!(["443"])] {
        assert_eq!(create(wrong.clone()).await.0, 400, "{wrong}");
    }
}
