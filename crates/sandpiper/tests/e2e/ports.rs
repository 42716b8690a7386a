//! Ports of real guests, as clients reach them: by Host, through the control plane and the host agent.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use testkit::{Server, wait_for};

use super::server;

/// A service of the guest's Python: echoes, streams for ever, sends much, and speaks enough WebSocket to say a word.
const SERVICE: &str = r#"
import base64, hashlib, http.server, socketserver, threading

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def chunk(self, data):
        self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")
    def do_GET(self):
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while True:
                self.chunk(b"tick\n")
                threading.Event().wait(0.05)
        elif self.path == "/much":
            self.send_response(200)
            self.send_header("content-length", str(32 << 20))
            self.end_headers()
            for _ in range(32):
                self.wfile.write(b"x" * (1 << 20))
        elif self.path == "/ws":
            key = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("upgrade", "websocket")
            self.send_header("connection", "upgrade")
            self.send_header("sec-websocket-accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            while True:
                head = self.rfile.read(2)
                if len(head) < 2 or head[0] & 15 == 8: return
                mask = self.rfile.read(4)
                text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(head[1] & 127)))
                self.wfile.write(bytes([0x81, len(text)]) + text)
        else:
            self.answer(f"{self.headers['host']} {self.path}".encode())
    def do_POST(self):
        left, seen = int(self.headers["content-length"]), 0
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            left, seen = left - len(data), seen + len(data)
        self.answer(str(seen).encode())

# Not HTTPServer, which asks the name servers who it is.
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
for at in ("0.0.0.0", 8000), ("127.0.0.1", 8001):
    threading.Thread(target=Server(at, Handler).serve_forever).start()
"#;

/// A guest with a service on all of its addresses (8000) and one on its loopback alone (8001).
async fn guest(server: &Server, wish: Value) -> String {
    let mut wish = wish;
    wish["template"] = json!("python311");
    let id = server.create(wish).await;
    let path = format!("/v1/sandboxes/{id}/files/write");
    let form = reqwest::multipart::Form::new()
        .text("path", "/root/service.py")
        .part("file", reqwest::multipart::Part::text(SERVICE).file_name("service.py"));
    let written = reqwest::Client::new().post(format!("{}{path}", server.url())).multipart(form).send().await.unwrap();
    assert!(written.status().is_success());
    let start = "setsid python3 /root/service.py >/root/log 2>&1 </dev/null &";
    assert_eq!(server.shell(&id, start).await.0, 0);
    for port in [8000, 8001] {
        wait_for("the service to listen", async || {
            let answer = at(server, port, &id, "/").send().await.unwrap();
            answer.status().is_success().then_some(())
        })
        .await;
    }
    id
}

fn name(port: u16, id: &str) -> String {
    format!("{port}-{id}.sandboxes.example")
}

fn at(server: &Server, port: u16, id: &str, path: &str) -> RequestBuilder {
    reqwest::Client::new().get(format!("{}{path}", server.url())).header("host", name(port, id))
}

async fn refused(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["message"].as_str().unwrap().to_owned())
}

/// Whether a stream that was under way ends within some seconds, and not as if it were complete.
async fn breaks_off(mut stream: Response) -> bool {
    let rest = async {
        loop {
            match stream.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), rest).await.expect("it ends at once")
}

async fn first_chunk(server: &Server, id: &str) -> Response {
    let mut stream = at(server, 8000, id, "/stream").send().await.unwrap();
    assert_eq!(stream.chunk().await.unwrap().unwrap(), "tick\n");
    stream
}

#[tokio::test]
async fn services_are_reached_wherever_in_the_guest_they_listen_and_nothing_else_is() {
    let server = server(&["--templates", "python311"]).await;
    let id = guest(&server, json!({})).await;
    for port in [8000, 8001] {
        let text = at(&server, port, &id, "/a%2Fb/?c").send().await.unwrap().text().await.unwrap();
        assert_eq!(text, format!("{} /a%2Fb/?c", name(port, &id)), "{port}");
    }
    let posted = reqwest::Client::new().post(server.url()).header("host", name(8001, &id)).body(vec![1; 20 << 20]);
    assert_eq!(posted.send().await.unwrap().text().await.unwrap(), (20 << 20).to_string());
    let mut much = at(&server, 8000, &id, "/much").send().await.unwrap();
    let mut bytes = much.chunk().await.unwrap().unwrap().len();
    // A reader that rests in between gets all the same.
    assert_eq!(server.shell(&id, "sleep 1; echo rested").await.1, "rested\n");
    while let Some(chunk) = much.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    assert_eq!(bytes, 32 << 20);

    let closed = "The sandbox is running but port is not open";
    assert_eq!(refused(at(&server, 9999, &id, "/")).await, (502, closed.to_owned()));
    let unknown = at(&server, 8000, "sb00000000000000000000", "/");
    assert_eq!(refused(unknown).await, (502, "The sandbox was not found".to_owned()));
    for port in [49981, 49982, 49983] {
        for path in ["/init", "/freeze", "/shutdown", "/health", "/files?path=/etc/passwd"] {
            assert_eq!(at(&server, port, &id, path).send().await.unwrap().status(), 404, "{port} {path}");
        }
    }
}

#[tokio::test]
async fn streams_end_with_their_sandbox_and_traffic_wakes_it() {
    let server = server(&["--templates", "python311"]).await;
    let id = guest(&server, json!({"auto_resume": true})).await;
    let stream = first_chunk(&server, &id).await;
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/pause"), Value::Null).await.status, 200);
    assert!(breaks_off(stream).await);

    let requests = (0..8).map(|_| at(&server, 8001, &id, "/woken").send());
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.unwrap().text().await.unwrap(), format!("{} /woken", name(8001, &id)));
    }
    let woken = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
    assert_eq!(woken.body["status"], "running");

    let stream = first_chunk(&server, &id).await;
    assert_eq!(server.call("DELETE", &format!("/v1/sandboxes/{id}"), Value::Null).await.status, 204);
    assert!(breaks_off(stream).await);
    let gone = at(&server, 8000, &id, "/");
    assert_eq!(refused(gone).await, (502, "The sandbox was not found".to_owned()));
}

#[tokio::test]
async fn traffic_is_a_use_and_a_connection_without_any_is_none() {
    let server = server(&["--templates", "python311"]).await;
    let id = guest(&server, json!({"timeout_sec": 8, "on_timeout": "pause"})).await;
    let mut stream = first_chunk(&server, &id).await;
    // Longer than it lives without any.
    let until = std::time::Instant::now() + Duration::from_secs(12);
    while std::time::Instant::now() < until {
        stream.chunk().await.unwrap().unwrap();
    }
    drop(stream);
    // An open WebSocket on which nothing is said.
    let upgrade = at(&server, 8001, &id, "/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
        .send()
        .await
        .unwrap();
    assert_eq!(upgrade.status(), 101);
    let mut socket = upgrade.upgrade().await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    socket.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, [0x81, 2, b'h', b'i']);
    wait_for("the sandbox to expire", async || {
        let seen = server.call("GET", &format!("/v1/sandboxes/{id}"), Value::Null).await;
        (seen.body["status"] == "paused").then_some(())
    })
    .await;
    assert_eq!(socket.read(&mut answer).await.unwrap_or(0), 0, "it has ended");
}
