//! The binary as its users see it, against a server with scripted answers: exit codes, exact output, and that a
//! temporary sandbox is removed on every way out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

/// What the server saw, in order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Create,
    Command(String),
    CommandOver,
    Delete(String),
}

struct Server {
    url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
    /// Lets a creation of template `slow` end.
    release: Arc<Notify>,
}

#[derive(Clone)]
struct Script {
    seen: mpsc::UnboundedSender<Seen>,
    release: Arc<Notify>,
}

async fn serve() -> Server {
    let (sender, seen) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let routes = Router::new()
        .route("/health", get(|| async { Json(json!({"accelerator": "tcg", "vmm_version": "QEMU 10"})) }))
        .route("/v1/sandboxes", post(create).get(list))
        .route("/v1/sandboxes/{id}", delete(remove))
        .route("/v1/sandboxes/{id}/exec", post(exec))
        .route("/v1/sandboxes/{id}/exec/stream", any(stream))
        .route("/v1/sandboxes/{id}/snapshots", post(snapshot))
        .route("/v1/sandboxes/{id}/fork", post(fork))
        .route("/v1/snapshots", get(|| async { Json([base("ready")]) }))
        .route("/v1/snapshots/{name}", delete(remove_snapshot))
        .route("/v1/disk", get(disk))
        .route("/v1/prune", post(prune))
        .with_state(Script { seen: sender, release: release.clone() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    Server { url, seen, release }
}

fn sandbox(status: &str) -> Value {
    json!({"id": "sb1", "status": status, "template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 300,
        "created_at": "2026-01-01T00:00:00Z", "last_updated": "2026-01-01T00:00:00Z"})
}

async fn create(State(script): State<Script>, Json(wish): Json<Value>) -> (StatusCode, Json<Value>) {
    script.seen.send(Seen::Create).unwrap();
    match wish["template"].as_str() {
        Some("slow") => script.release.notified().await,
        Some("unknown") => {
            let error = json!({"error": {"code": "not_found", "message": "no template unknown"}});
            return (StatusCode::NOT_FOUND, Json(error));
        }
        _ => {}
    }
    (StatusCode::CREATED, Json(sandbox("running")))
}

async fn list() -> Json<Value> {
    let mut stopped = sandbox("stopped");
    stopped["id"] = "sb2".into();
    Json(json!([sandbox("running"), stopped]))
}

async fn remove(State(script): State<Script>, Path(id): Path<String>) -> StatusCode {
    script.seen.send(Seen::Delete(id)).unwrap();
    StatusCode::NO_CONTENT
}

fn base(status: &str) -> Value {
    json!({"name": "base", "type": "snapshot", "id": "sn1", "status": status, "sandbox_id": "sb1", "template": "minimal",
        "memory_mb": 512, "size_bytes": 123_456_789, "created_at": "2026-01-01T00:00:00Z"})
}

async fn snapshot(Json(wish): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(wish, json!({"name": "base"}));
    (StatusCode::CREATED, Json(base("ready")))
}

async fn fork(Json(wish): Json<Value>) -> (StatusCode, Json<Value>) {
    let children = (0..wish["count"].as_u64().unwrap()).map(|_| sandbox("running"));
    (StatusCode::CREATED, Json(children.collect()))
}

async fn remove_snapshot(Path(name): Path<String>) -> (StatusCode, Json<Value>) {
    match name.as_str() {
        "base" => (StatusCode::NO_CONTENT, Json(Value::Null)),
        _ => {
            let error = json!({"code": "conflict", "message": "snapshot used is still needed by sb7"});
            (StatusCode::CONFLICT, Json(json!({"error": error, "request_id": "r1"})))
        }
    }
}

async fn disk() -> Json<Value> {
    let uses = json!([
        {"kind": "snapshot", "id": "sn1", "name": "base", "bytes": 200 << 20, "prunable": false},
        {"kind": "other", "bytes": 100 << 20, "prunable": false},
    ]);
    Json(json!({"total_bytes": 100_u64 << 30, "free_bytes": 50_u64 << 30, "reserve_bytes": 1 << 30, "uses": uses}))
}

async fn prune(Json(wish): Json<Value>) -> Json<Value> {
    let removed = json!([
        {"kind": "bake", "id": "minimal-1", "bytes": 118 << 20},
        {"kind": "sandbox", "id": "sb9", "reason": "retention: it was not used for 60 s"},
    ]);
    Json(json!({"dry_run": wish["dry_run"], "removed": removed}))
}

async fn exec() -> Json<Value> {
    Json(json!({"stdout": "", "stderr": "", "exit_code": 0, "duration_ms": 1, "encoding": "utf-8"}))
}

async fn stream(State(script): State<Script>, upgrade: WebSocketUpgrade) -> axum::response::Response {
    upgrade.on_upgrade(async move |socket| {
        play(socket, &script).await;
        let _ = script.seen.send(Seen::CommandOver);
    })
}

/// What a command does is its name.
async fn play(mut socket: WebSocket, script: &Script) {
    let Some(Ok(Message::Text(text))) = socket.recv().await else { return };
    let start: Value = serde_json::from_str(&text).unwrap();
    let name = start["cmd"].as_str().unwrap().to_owned();
    script.seen.send(Seen::Command(name.clone())).unwrap();
    match name.as_str() {
        "both" => {
            data(&mut socket, "stdout", b"out\0\xff\n").await;
            data(&mut socket, "stderr", b"err\n").await;
            frame(&mut socket, json!({"type": "exit", "exit_code": 7})).await;
        }
        "refused" => frame(&mut socket, json!({"type": "error", "data": "the guest is gone"})).await,
        "killed" => {
            let status = "signal: segmentation fault";
            frame(&mut socket, json!({"type": "exit", "exit_code": -1, "status": status})).await;
        }
        "flood" => while data(&mut socket, "stdout", &[b'y'; 4096]).await {},
        // It only ends when it is stopped, or when nobody is there any more.
        _ => while let Some(Ok(Message::Ping(_) | Message::Pong(_))) = socket.recv().await {},
    }
}

async fn data(socket: &mut WebSocket, stream: &str, bytes: &[u8]) -> bool {
    let text = BASE64_STANDARD.encode(bytes);
    let frame = json!({"type": stream, "data": text, "encoding": "base64"});
    socket.send(Message::text(frame.to_string())).await.is_ok()
}

async fn frame(socket: &mut WebSocket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

impl Server {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
        command.args(arguments).env("SANDPIPER_URL", &self.url).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    async fn saw(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

async fn end(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_output_and_exit_code_through_and_removes_the_sandbox() {
    let mut server = serve().await;
    let output = server.run(&["run", "minimal", "--", "both"]).await;
    assert_eq!((output.stdout.as_slice(), text(&output.stderr).as_str()), (&b"out\0\xff\n"[..], "err\n"));
    assert_eq!(output.status.code(), Some(7));
    let expected = [Seen::Create, Seen::Command("both".into()), Seen::CommandOver, Seen::Delete("sb1".into())];
    for event in expected {
        assert_eq!(server.saw().await, event);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_ours_is_125_with_its_reason_and_still_removes_the_sandbox() {
    let mut server = serve().await;
    let output = server.run(&["run", "unknown", "--", "both"]).await;
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr), "error: no template unknown [404 not_found]\n");
    assert_eq!(server.saw().await, Seen::Create);

    let output = server.run(&["run", "minimal", "--", "refused"]).await;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(125), "error: the guest is gone\n"));
    while server.saw().await != Seen::Delete("sb1".into()) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_kills_the_command_and_removes_the_sandbox() {
    for (sent, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut server = serve().await;
        let child = server.command(&["run", "minimal", "--", "sleep"]).spawn().unwrap();
        while server.saw().await != Seen::Command("sleep".into()) {}
        signal(&child, sent);
        assert_eq!(server.saw().await, Seen::CommandOver);
        assert_eq!(server.saw().await, Seen::Delete("sb1".into()));
        assert_eq!(end(child).await.status.code(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_creation_removes_what_it_makes() {
    let mut server = serve().await;
    let mut child = server.command(&["run", "slow", "--", "both"]).spawn().unwrap();
    assert_eq!(server.saw().await, Seen::Create);
    signal(&child, Signal::INT);
    // The message says that the signal was noticed; only then may the creation end.
    let mut stderr = child.stderr.take().unwrap();
    let notice = tokio::task::spawn_blocking(move || stderr.read(&mut [0; 64]).unwrap()).await.unwrap();
    assert!(notice > 0);
    server.release.notify_one();
    assert_eq!(server.saw().await, Seen::Delete("sb1".into()), "no command ran in between");
    assert_eq!(end(child).await.status.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let mut server = serve().await;
    let mut child = server.command(&["run", "minimal", "--", "flood"]).spawn().unwrap();
    drop(child.stdout.take());
    while server.saw().await != Seen::Delete("sb1".into()) {}
    let output = end(child).await;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_follows_a_command_and_leaves_the_sandbox() {
    let mut server = serve().await;
    let output = server.run(&["sandbox", "exec", "sb1", "--", "both"]).await;
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(server.run(&["sandbox", "exec", "sb1", "--", "killed"]).await.status.code(), Some(128 + 11));
    let child = server.command(&["sandbox", "exec", "sb1", "--", "sleep"]).spawn().unwrap();
    while server.saw().await != Seen::Command("sleep".into()) {}
    signal(&child, Signal::INT);
    assert_eq!(end(child).await.status.code(), Some(130));
    assert_eq!(server.saw().await, Seen::CommandOver);
    assert!(server.seen.try_recv().is_err(), "nothing was deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn create_prints_the_id_alone_and_json_on_request() {
    let server = serve().await;
    assert_eq!(text(&server.run(&["sandbox", "create", "minimal"]).await.stdout), "sb1\n");
    let output = server.run(&["sandbox", "create", "minimal", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), sandbox("running"));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_made_listed_and_removed() {
    let server = serve().await;
    let said = server.run(&["snapshot", "create", "sb1", "base"]).await;
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(0), "base\n".to_owned()));
    let said = server.run(&["snapshot", "ls"]).await;
    let table = text(&said.stdout);
    assert!(table.contains("base") && table.contains("117 MiB") && table.contains("ready"), "{table}");
    let said = server.run(&["snapshot", "ls", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&said.stdout).unwrap(), json!([base("ready")]));
    let said = server.run(&["snapshot", "rm", "used", "base"]).await;
    assert_eq!((said.status.code(), text(&said.stdout)), (Some(1), "base\n".to_owned()));
    assert!(text(&said.stderr).contains("still needed by sb7"), "{}", text(&said.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn fork_prints_the_ids_of_the_children() {
    let server = serve().await;
    let said = server.run(&["sandbox", "fork", "sb1", "--count", "3"]).await;
    assert_eq!(text(&said.stdout).lines().count(), 3, "{}", text(&said.stderr));
    let said = server.run(&["sandbox", "fork", "sb1", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&said.stdout).unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn df_and_prune_say_what_takes_space_and_why_it_goes() {
    let server = serve().await;
    let said = text(&server.run(&["df"]).await.stdout);
    assert!(said.contains("200 MiB") && said.contains("300 MiB in use; 50 GiB of 100 GiB free"), "{said}");
    let said = text(&server.run(&["prune", "--dry-run"]).await.stdout);
    assert!(said.contains("not used for 60 s") && said.contains("118 MiB would be removed"), "{said}");
    let said = text(&server.run(&["prune"]).await.stdout);
    assert!(said.contains("118 MiB removed"), "{said}");
    for command in ["df", "prune"] {
        let said = server.run(&[command, "--json"]).await;
        assert!(serde_json::from_slice::<Value>(&said.stdout).unwrap().is_object());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ls_shows_the_live_ones_unless_all_are_asked_for() {
    let server = serve().await;
    let ids = |output: Output| {
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        listed.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(server.run(&["sandbox", "ls", "--json"]).await), ["sb1"]);
    assert_eq!(ids(server.run(&["sandbox", "ls", "--json", "--all"]).await), ["sb1", "sb2"]);
    let table = text(&server.run(&["sandbox", "ls"]).await.stdout);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((words.len(), words[0][0], words[1][0]), (2, "ID", "sb1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rm_takes_several_or_all() {
    let mut server = serve().await;
    let output = server.run(&["sandbox", "rm", "sb7", "sb8"]).await;
    assert_eq!(text(&output.stdout), "sb7\nsb8\n");
    assert_eq!(text(&server.run(&["sandbox", "rm", "--all"]).await.stdout), "sb1\n");
    for id in ["sb7", "sb8", "sb1"] {
        assert_eq!(server.saw().await, Seen::Delete(id.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_and_a_bad_address_have_their_own_exit_codes() {
    let server = Server { url: "http://127.0.0.1:1".into(), ..serve().await };
    let output = server.run(&["sandbox", "ls"]).await;
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.starts_with("error: no server at http://127.0.0.1:1: start one with `sandpiper up`"), "{message}");
    assert!(message.contains("\n  because: "), "{message}");
    assert_eq!(server.run(&["sandbox", "ls", "--url", "nonsense"]).await.status.code(), Some(64));
    assert_eq!(server.run(&["sandbox", "ls", "--nonsense"]).await.status.code(), Some(2));
    assert_eq!(server.run(&["run", "minimal", "--", "both"]).await.status.code(), Some(125));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_answers_in_json_with_a_verdict_that_its_exit_code_repeats() {
    let server = serve().await;
    let output = server.run(&["doctor", "--json", "--listen", "127.0.0.1:0"]).await;
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(diagnosis["checks"].as_array().unwrap().len() > 10);
    assert_eq!(output.status.success(), diagnosis["ready"].as_bool().unwrap());
}

#[test]
fn the_guest_agent_inside_is_a_static_program() {
    let guest_agent = std::fs::read(env!("SANDPIPER_GUEST_AGENT")).unwrap();
    assert_eq!(&guest_agent[..4], b"\x7fELF");
    let field = |offset: usize| u16::from_le_bytes([guest_agent[offset], guest_agent[offset + 1]]) as usize;
    let table = u64::from_le_bytes(guest_agent[32..40].try_into().unwrap()) as usize;
    let (size, count) = (field(54), field(56));
    let kinds = (0..count).map(|entry| guest_agent[table + entry * size]);
    const INTERPRETER: u8 = 3;
    assert!(count > 0 && kinds.into_iter().all(|kind| kind != INTERPRETER), "it wants an interpreter");
}
