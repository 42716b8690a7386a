//! Terminals over a WebSocket: what is typed and what is shown are binary frames, everything else is JSON text.
//!
//! A terminal outlives its WebSocket and is joined again by its tag. What is typed waits in a queue of its own, so that
//! a guest that is slow to take it holds up neither output nor pongs.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream::SplitSink;
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Interval, timeout};

use super::Api;
use super::error::ApiError;
use super::exec::{audit, check, random_tag};
use super::exec_stream::{FIRST_FRAME, Incoming, close, pings, upgraded};
use super::openapi::{SandboxIdParam, SocketErrors};
use super::request::{Caller, InPath, parse_json};
use crate::host::{
    GuestProcess, HostError, ProcessEvent, ProcessSpec, RunLimit, Selector, TerminalInput, TerminalSize,
};
use crate::metrics::ExecEnd;
use crate::store::Sandbox;

const DEFAULT_SHELL: &str = "/bin/bash";
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// Frames of a client that wait for the guest.
const QUEUE: usize = 64;

/// How long the guest may take for what a client that has left said last.
const LAST_WISHES: std::time::Duration = std::time::Duration::from_secs(10);

/// How much of what was typed is sent to the guest in one call.
const TYPED_AT_ONCE: usize = 64 << 10;

/// The first frame.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum First {
    Start {
        cmd: Option<String>,
        args: Option<Vec<String>>,
        cols: Option<u32>,
        rows: Option<u32>,
        envs: Option<HashMap<String, String>>,
        cwd: Option<String>,
        user: Option<String>,
    },
    Connect {
        tag: String,
    },
}

/// The further text frames.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Control {
    Resize {
        cols: u32,
        rows: u32,
    },
    Kill,
    /// What older clients type, in base64.
    Input {
        data: String,
    },
    #[serde(other)]
    Other,
}

/// What a client wants of a terminal.
enum Wish {
    Type(Bytes),
    Resize(TerminalSize),
    Kill,
}

type Sink = SplitSink<WebSocket, Message>;

/// Open a terminal
///
/// A WebSocket; docs/api.md has its frames.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/pty",
    operation_id = "openTerminal",
    tag = "commands",
    params(SandboxIdParam),
    responses((status = 101, description = "The frames follow"), SocketErrors)
)]
pub async fn open(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    let task = api.clone();
    upgraded(&api, upgrade, move |socket| async move { serve(&task, &sandbox, socket).await })
}

async fn serve(api: &Api, sandbox: &Sandbox, socket: WebSocket) {
    let (mut sink, mut incoming) = socket.split();
    api.touch(sandbox).await;
    let last = match session(api, sandbox, &mut sink, &mut incoming).await {
        Ok(last) => last,
        Err(error) => Some(json!({"type": "error", "data": error.into_message(), "fatal": true})),
    };
    if let Some(last) = last {
        let finish = async {
            say(&mut sink, last).await?;
            sink.close().await
        };
        close(finish, &mut incoming).await;
    }
    api.touch(sandbox).await;
}

async fn say(sink: &mut Sink, frame: Value) -> Result<(), axum::Error> {
    sink.send(Message::Text(frame.to_string().into())).await
}

/// Returns the last frame, or nothing when nobody listens any more.
async fn session(
    api: &Api,
    sandbox: &Sandbox,
    sink: &mut Sink,
    incoming: &mut Incoming,
) -> Result<Option<Value>, ApiError> {
    let first = tokio::select! {
        first = timeout(FIRST_FRAME, first_frame(incoming)) => first,
        () = api.shutdown.cancelled() => return Err(ApiError::conflict("the server is shutting down")),
    };
    let first = match first {
        Ok(Some(first)) => first?,
        Ok(None) => return Ok(None),
        Err(_) => return Err(ApiError::invalid_request("no first frame came")),
    };
    let (mut process, tag) = match first {
        First::Connect { tag } => (api.host.join(&sandbox.id, Selector::Tag(tag.clone())).await?, tag),
        start => {
            let spec = spec(start)?;
            let tag = spec.tag.clone().unwrap_or_default();
            let cmd = spec.cmd.clone();
            let started = api.host.start_detached(&sandbox.id, spec).await;
            audit(api, sandbox, &cmd, started.as_ref().map(|_| ExecEnd::Ok));
            (started?, tag)
        }
    };
    let pid = process.started().await?;
    let keyboard = api.host.terminal_input(&sandbox.id, Selector::Pid(pid))?;
    if say(sink, json!({"type": "started", "tag": tag, "pid": pid})).await.is_err() {
        return Ok(None);
    }
    let (wishes, queue) = mpsc::channel(QUEUE);
    let typing = async { tokio::join!(hear(incoming, wishes), fulfil(&keyboard, queue)).1 };
    tokio::pin!(typing);
    tokio::select! {
        shown = show(&mut process, sink, pings(api.patience.ping)) => match shown? {
            // The client has left, and what it said before that is still done: often it is to kill.
            None => timeout(LAST_WISHES, typing).await.unwrap_or(Ok(())).map(|()| None),
            last => Ok(last),
        },
        typed = &mut typing => typed.map(|()| None),
        () = api.shutdown.cancelled() => Err(ApiError::conflict("the server is shutting down")),
    }
}

async fn first_frame(incoming: &mut Incoming) -> Option<Result<First, ApiError>> {
    loop {
        match incoming.next().await? {
            Ok(Message::Text(text)) => return Some(parse_json(text.as_bytes())),
            Ok(Message::Binary(_)) => {
                return Some(Err(ApiError::invalid_request("the first frame must be \"start\" or \"connect\"")));
            }
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

fn spec(first: First) -> Result<ProcessSpec, ApiError> {
    let First::Start { cmd, args, cols, rows, envs, cwd, user } = first else {
        return Err(ApiError::invalid_request("the first frame must be \"start\" or \"connect\""));
    };
    let spec = ProcessSpec {
        cmd: cmd.filter(|cmd| !cmd.is_empty()).unwrap_or_else(|| DEFAULT_SHELL.to_owned()),
        args: args.unwrap_or_default(),
        envs: envs.unwrap_or_default(),
        cwd: cwd.filter(|cwd| !cwd.is_empty()),
        user: user.filter(|user| !user.is_empty()),
        limit: RunLimit::None,
        tag: Some(random_tag("pty-")),
        terminal: Some(size(cols.unwrap_or(DEFAULT_SIZE.cols), rows.unwrap_or(DEFAULT_SIZE.rows))?),
    };
    check(&spec)?;
    Ok(spec)
}

/// The kernel keeps 16 bits of each.
fn size(cols: u32, rows: u32) -> Result<TerminalSize, ApiError> {
    let range = 1..=u32::from(u16::MAX);
    if range.contains(&cols) && range.contains(&rows) {
        return Ok(TerminalSize { cols, rows });
    }
    Err(ApiError::invalid_request("cols and rows must be between 1 and 65535"))
}

/// Takes frames until the client leaves. Those that make no sense are passed over: a terminal goes on.
async fn hear(incoming: &mut Incoming, wishes: mpsc::Sender<Wish>) {
    while let Some(Ok(message)) = incoming.next().await {
        let wish = match message {
            Message::Binary(bytes) => Some(Wish::Type(bytes)),
            Message::Text(text) => serde_json::from_str(&text).ok().and_then(wish),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => None,
        };
        if let Some(wish) = wish
            && wishes.send(wish).await.is_err()
        {
            return;
        }
    }
}

fn wish(control: Control) -> Option<Wish> {
    match control {
        Control::Resize { cols, rows } => size(cols, rows).ok().map(Wish::Resize),
        Control::Kill => Some(Wish::Kill),
        Control::Input { data } => STANDARD.decode(data).ok().map(|bytes| Wish::Type(bytes.into())),
        Control::Other => None,
    }
}

/// Does what the client wants, in its order. What is typed quickly is sent together.
async fn fulfil(keyboard: &TerminalInput, mut queue: mpsc::Receiver<Wish>) -> Result<(), ApiError> {
    let mut next = None;
    loop {
        let Some(wish) = (match next.take() {
            Some(wish) => Some(wish),
            None => queue.recv().await,
        }) else {
            return Ok(());
        };
        let done = match wish {
            Wish::Kill => keyboard.kill().await,
            Wish::Resize(size) => keyboard.resize(size).await,
            Wish::Type(first) => {
                let mut typed = BytesMut::from(first.as_ref());
                while typed.len() < TYPED_AT_ONCE
                    && next.is_none()
                    && let Ok(wish) = queue.try_recv()
                {
                    match wish {
                        Wish::Type(more) => typed.extend_from_slice(&more),
                        other => next = Some(other),
                    }
                }
                type_in(keyboard, typed.freeze()).await
            }
        };
        match done {
            // It has ended; the other half says how.
            Err(error) if error.is_not_found() => return std::future::pending().await,
            other => other?,
        }
    }
}

async fn type_in(keyboard: &TerminalInput, mut typed: Bytes) -> Result<(), HostError> {
    while !typed.is_empty() {
        let part = typed.split_to(typed.len().min(TYPED_AT_ONCE));
        keyboard.write(part).await?;
    }
    Ok(())
}

/// Shows output until the program ends, and returns the last frame.
async fn show(process: &mut GuestProcess, sink: &mut Sink, mut pings: Interval) -> Result<Option<Value>, ApiError> {
    loop {
        let event = tokio::select! {
            event = process.next() => event?,
            _ = pings.tick() => match say(sink, json!({"type": "ping"})).await {
                Ok(()) => continue,
                Err(_) => return Ok(None),
            },
        };
        match event {
            Some(ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes)) => {
                if sink.send(Message::Binary(bytes)).await.is_err() {
                    return Ok(None);
                }
            }
            Some(ProcessEvent::Started { .. } | ProcessEvent::Lost(_)) => {}
            Some(ProcessEvent::Exited { code, .. }) => return Ok(Some(json!({"type": "exit", "exit_code": code}))),
            None => return Err(ApiError::conflict("the program has ended")),
        }
    }
}
