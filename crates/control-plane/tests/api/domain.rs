//! A domain's names over HTTPS: the API, ports of guests, and nobody's; in either version of HTTP, and WebSockets.

use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::any;
use control_plane::Domain;
use futures::{SinkExt, StreamExt};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::fixture::Fixture;
use crate::https::{Secure, certificate};

const PORT: u16 = 8000;

async fn started() -> (Fixture, Secure) {
    let domain = Domain { name: "sbx.example".parse().unwrap(), port: 8443 };
    let mut server = Fixture::with(|config| config.domain = Some(domain)).await;
    let secure = server.secure.take().unwrap();
    (server, secure)
}

/// A guest's service, which says how it was called.
async fn service(server: &Fixture) {
    let echo = async |headers: http::HeaderMap| headers["x-forwarded-proto"].to_str().unwrap().to_owned();
    let socket = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    let router = Router::new().route("/ws", any(socket)).fallback(echo);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.host.update(|state| state.ports.insert(PORT, listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

async fn get(secure: &Secure, label: &str, path: &str, protocol: &str) -> (StatusCode, String) {
    let stream = secure.connect(label, &[protocol]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    let stream = TokioIo::new(stream);
    let answer = if protocol == "h2" {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let uri = format!("https://{}{path}", secure.host(label));
        sender.send_request(Request::get(uri).body(Empty::<&[u8]>::new()).unwrap()).await.unwrap()
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header(HOST, secure.host(label));
        sender.send_request(request.body(Empty::<&[u8]>::new()).unwrap()).await.unwrap()
    };
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn each_name_is_the_apis_a_ports_or_nobodys() {
    let (server, secure) = started().await;
    service(&server).await;
    let (_, made) = server.post("/v2/sandboxes", json!({"templateID": "minimal"})).await;
    assert_eq!(made["domain"], "sbx.example:8443", "{made}");
    let port = format!("{PORT}-{}", made["sandboxID"].as_str().unwrap());
    for protocol in ["h2", "http/1.1"] {
        let (status, list) = get(&secure, "api", "/v2/sandboxes", protocol).await;
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!((status, &list[0]["sandboxID"]), (StatusCode::OK, &made["sandboxID"]), "{protocol}");
        assert_eq!(get(&secure, &port, "/", protocol).await, (StatusCode::OK, "https".to_owned()), "{protocol}");
        let nobody = (StatusCode::BAD_REQUEST, "Invalid host\n".to_owned());
        assert_eq!(get(&secure, "www", "/v2/sandboxes", protocol).await, nobody, "{protocol}");
    }
    let (status, detail) = server.get(&format!("/sandboxes/{}", made["sandboxID"].as_str().unwrap())).await;
    assert_eq!((status, &detail["domain"]), (StatusCode::OK, &made["domain"]));
}

#[tokio::test]
async fn a_websocket_reaches_a_port_in_tls() {
    let (server, secure) = started().await;
    service(&server).await;
    let label = format!("{PORT}-{}", server.create().await);
    let stream = secure.connect(&label, &["http/1.1"]).await.unwrap();
    let url = format!("wss://{}/ws", secure.host(&label));
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Message::text("hi")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hi"));
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_those_that_are_there_stay() {
    let (server, secure) = started().await;
    let stream = secure.connect("api", &["http/1.1"]).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (new, key) = certificate(server.config.domain.as_ref().unwrap());
    assert!(secure.identity.replace(&new, "no key").is_err());
    secure.connect("api", &["h2"]).await.expect("what cannot be used changes nothing");
    secure.identity.replace(&new, &key).unwrap();
    let refused = secure.connect("api", &["h2"]).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "this client believes only the old one: {refused}");
    let request = Request::get("/health").header(HOST, secure.host("api")).body(Empty::<&[u8]>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn who_does_not_speak_tls_holds_nothing_for_long() {
    let domain = Domain { name: "sbx.example".parse().unwrap(), port: 443 };
    let change = |config: &mut control_plane::Config| {
        config.domain = Some(domain);
        config.patience.header = Duration::from_millis(300);
    };
    let mut server = Fixture::with(change).await;
    let address = server.secure.as_ref().unwrap().address;
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0, "it is sent away");
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: api.sbx.example\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    let _ = plain.read_to_end(&mut told).await;
    assert!(!told.starts_with(b"HTTP"), "{told:?}");
    // Nor does it hold up the server's end.
    let _silent = TcpStream::connect(address).await.unwrap();
    server.stop().await;
}
