//! Live output over a WebSocket: JSON text frames, see docs/api.md.
//!
//! A process that is started here lives as long as somebody listens, unless it is to be kept: `stop` and the end of the
//! socket kill it. One that is there already is only followed, from now on or from a place in what it printed. A client that does not read holds the process up, not our memory: nothing is
//! read from the guest before the last frame is sent.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::Uri;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::Instrument;

use super::Api;
use super::error::ApiError;
use super::exec::{ExecRequest, audit};
use super::openapi::{SandboxIdParam, SocketErrors};
use super::process_output::{FromParam, place};
use super::processes::{ProcessInPath, ProcessParam};
use super::request::{Caller, InPath, parse_json};
use super::surface::Surface;
use super::utf8::TextStream;
use crate::host::{GuestProcess, ProcessEvent, Replay, Selector};
use crate::metrics::ExecEnd;
use crate::store::Sandbox;

/// How long a client may take to say what it wants.
pub const FIRST_FRAME: Duration = Duration::from_secs(30);
/// How long a stopped process may take to end, and a client to take the last frames.
const END: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type", default)]
    kind: String,
    encoding: Option<String>,
    /// Whether the process outlives its socket.
    #[serde(default)]
    keep: bool,
    #[serde(flatten)]
    request: ExecRequest,
}

/// Run a command with live output
///
/// A WebSocket with JSON text frames; docs/api.md has them.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/exec/stream",
    operation_id = "execStream",
    tag = "commands",
    params(SandboxIdParam),
    responses((status = 101, description = "The frames follow"), SocketErrors)
)]
pub async fn exec_stream(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    let task = api.clone();
    upgraded(&api, upgrade, move |socket| async move {
        serve(&task, &sandbox, socket, Wanted::FirstFrame(surface)).await;
    })
}

/// Follow a process
///
/// A WebSocket with the same frames as `exec/stream`, for a process that is there: no first frame is needed, and the end
/// of the socket does not end the process. With `from`, what it printed from that place on comes first, also of one that
/// ended a while ago; without, only what it prints from now on.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/processes/{process}/stream",
    operation_id = "processStream",
    tag = "commands",
    params(SandboxIdParam, ProcessParam, FromParam),
    responses((status = 101, description = "The frames follow"), SocketErrors)
)]
pub async fn process_stream(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    ProcessInPath(selector): ProcessInPath,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let from = place(uri.query().unwrap_or_default())?;
    let sandbox = api.running(&owner, &id).await?;
    let task = api.clone();
    upgraded(&api, upgrade, move |socket| async move {
        serve(&task, &sandbox, socket, Wanted::Process(selector, from)).await;
    })
}

/// Becomes a WebSocket, whose work is waited for when the server ends.
pub fn upgraded<F: Future<Output = ()> + Send + 'static>(
    api: &Api,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    work: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::invalid_request(format!("a WebSocket is needed here: {error}")))?;
    let (limit, tasks) = (api.limits.json_body, api.tasks.clone());
    let span = tracing::Span::current();
    Ok(upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| tasks.track_future(async move { work(socket).await }).instrument(span)))
}

/// What a client wants to follow.
enum Wanted {
    /// What its first frame says.
    FirstFrame(Surface),
    /// What is there, from this place in what it printed, or from now on.
    Process(Selector, Option<u64>),
}

async fn serve(api: &Api, sandbox: &Sandbox, socket: WebSocket, wanted: Wanted) {
    let (sink, mut incoming) = socket.split();
    let mut output =
        Output { sink, encoding: Encoding::Text, stdout: TextStream::default(), stderr: TextStream::default() };
    let ended = match wanted {
        Wanted::FirstFrame(surface) => session(api, sandbox, surface, &mut output, &mut incoming).await,
        Wanted::Process(selector, from) => {
            api.touch(sandbox).await;
            // Who goes on where it was is who started it.
            let may_stop = if from.is_some() { MayStop::Yes } else { MayStop::No };
            let joined = match from {
                Some(place) => {
                    output.encoding = Encoding::Base64;
                    api.host.replay(&sandbox.id, selector, Replay::Follow(place)).await
                }
                None => api.host.join(&sandbox.id, selector).await,
            };
            match joined {
                Ok(mut process) => follow(api, &mut process, &mut output, &mut incoming, may_stop).await,
                Err(error) => error_frame(error),
            }
        }
    };
    if let Ended::With(last) = ended {
        close(output.finish(last), &mut incoming).await;
    }
    api.touch(sandbox).await;
}

/// Lets the last frames arrive. A client that does not take them in time has left. Reading on to its end matters: what
/// it sent and nobody read would reset the connection, and with it frames that are still on their way.
pub async fn close(last: impl Future<Output = Result<(), axum::Error>>, incoming: &mut Incoming) {
    let finish = async {
        if last.await.is_ok() {
            while let Some(Ok(_)) = incoming.next().await {}
        }
    };
    let _ = timeout(END, finish).await;
}

/// How a session ended.
enum Ended {
    /// Nobody listens any more.
    Gone,
    /// With this as the last frame.
    With(Value),
}

fn error_frame(error: impl Into<ApiError>) -> Ended {
    Ended::With(json!({"type": "error", "data": error.into().into_message()}))
}

async fn session(
    api: &Api,
    sandbox: &Sandbox,
    surface: Surface,
    output: &mut Output,
    incoming: &mut Incoming,
) -> Ended {
    let request = tokio::select! {
        request = timeout(FIRST_FRAME, first_frame(incoming)) => request,
        () = api.shutdown.cancelled() => return server_ends(),
    };
    let frame = match request {
        Ok(Some(Ok(frame))) => frame,
        Ok(Some(Err(error))) => return error_frame(error),
        Ok(None) => return Ended::Gone,
        Err(_) => return error_frame(ApiError::invalid_request("no start frame came")),
    };
    let keep = frame.keep;
    let spec = match output.accept(frame).and_then(|request| request.into_spec(surface.live_limit())) {
        Ok(spec) => spec,
        Err(error) => return error_frame(error),
    };
    api.touch(sandbox).await;
    let cmd = spec.cmd.clone();
    let started = match keep {
        true => api.host.start_detached(&sandbox.id, spec).await,
        false => api.host.start(&sandbox.id, spec, &api.tasks).await,
    };
    audit(api, sandbox, &cmd, started.as_ref().map(|_| ExecEnd::Ok));
    match started {
        Ok(mut process) => follow(api, &mut process, output, incoming, MayStop::Yes).await,
        Err(error) => error_frame(error),
    }
}

fn server_ends() -> Ended {
    error_frame(ApiError::conflict("the server is shutting down"))
}

/// Whether a client may end what it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayStop {
    /// It started it, now or before its connection was lost.
    Yes,
    /// It only listens.
    No,
}

/// Passes output on until the process ends or somebody wants it to. A process that was started for its follower dies
/// with it.
async fn follow(
    api: &Api,
    process: &mut GuestProcess,
    output: &mut Output,
    incoming: &mut Incoming,
    may_stop: MayStop,
) -> Ended {
    let mut pings = pings(api.patience.ping);
    // What lives on can be joined again later; what dies with its follower gets its time.
    let end = if process.dies_with_follower() { &api.over } else { &api.shutdown };
    tokio::select! {
        ended = pass_on(process, output, &mut pings) => return ended,
        stop = stopped(incoming, may_stop) => match stop {
            Stop::Asked => {}
            Stop::Closed => return Ended::Gone,
        },
        () = end.cancelled() => return server_ends(),
    }
    if let Err(error) = process.kill().await {
        return error_frame(error);
    }
    match timeout(END, pass_on(process, output, &mut pings)).await {
        Ok(ended) => ended,
        Err(_) => error_frame(ApiError::conflict("the process was killed, but its end is not known")),
    }
}

/// When the client of a WebSocket is told that its server is still there.
pub fn pings(every: Duration) -> Interval {
    let mut pings = interval_at(Instant::now() + every, every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

async fn pass_on(process: &mut GuestProcess, output: &mut Output, pings: &mut Interval) -> Ended {
    loop {
        let event = tokio::select! {
            event = process.next() => event,
            _ = pings.tick() => match output.sink.send(Message::Ping(Bytes::new())).await {
                Ok(()) => continue,
                Err(_) => return Ended::Gone,
            },
        };
        let sent = match event {
            Ok(Some(ProcessEvent::Started { pid })) => output.send(json!({"type": "start", "pid": pid})).await,
            Ok(Some(ProcessEvent::Stdout(bytes))) => output.data("stdout", &bytes, process.place()).await,
            Ok(Some(ProcessEvent::Stderr(bytes))) => output.data("stderr", &bytes, process.place()).await,
            Ok(Some(ProcessEvent::Lost(bytes))) => {
                output.send(json!({"type": "lost", "bytes": bytes, "next": process.place()})).await
            }
            Ok(Some(ProcessEvent::Exited { code, status })) => {
                return Ended::With(json!({"type": "exit", "exit_code": code, "status": status}));
            }
            Ok(None) => return error_frame(ApiError::conflict("the process has ended")),
            Err(error) => return error_frame(error),
        };
        if sent.is_err() {
            return Ended::Gone;
        }
    }
}

pub type Incoming = SplitStream<WebSocket>;

/// The next text frame. Binary frames mean nothing here; pings are answered by the library.
async fn next_frame(incoming: &mut Incoming) -> Option<Utf8Bytes> {
    loop {
        match incoming.next().await? {
            Ok(Message::Text(text)) => return Some(text),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

async fn first_frame(incoming: &mut Incoming) -> Option<Result<Frame, ApiError>> {
    let text = next_frame(incoming).await?;
    Some(parse_json::<Frame>(text.as_bytes()).and_then(|frame| match frame.kind.as_str() {
        "start" => Ok(frame),
        _ => Err(ApiError::invalid_request("the first frame must have the type \"start\"")),
    }))
}

enum Stop {
    Asked,
    Closed,
}

/// Waits until the client leaves or, where it may, wants the process to end.
async fn stopped(incoming: &mut Incoming, may_stop: MayStop) -> Stop {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    while let Some(text) = next_frame(incoming).await {
        if may_stop == MayStop::Yes && serde_json::from_str::<Kind>(&text).is_ok_and(|frame| frame.kind == "stop") {
            return Stop::Asked;
        }
    }
    Stop::Closed
}

/// How output is put into JSON.
enum Encoding {
    /// As text, with characters kept whole.
    Text,
    /// Byte for byte.
    Base64,
}

struct Output {
    sink: SplitSink<WebSocket, Message>,
    encoding: Encoding,
    stdout: TextStream,
    stderr: TextStream,
}

impl Output {
    /// Takes the encoding out of a start frame.
    fn accept(&mut self, frame: Frame) -> Result<ExecRequest, ApiError> {
        self.encoding = match frame.encoding.as_deref() {
            None | Some("utf-8") => Encoding::Text,
            Some("base64") => Encoding::Base64,
            Some(_) => return Err(ApiError::invalid_request("encoding must be \"utf-8\" or \"base64\"")),
        };
        Ok(frame.request)
    }

    async fn send(&mut self, frame: Value) -> Result<(), axum::Error> {
        self.sink.send(Message::Text(frame.to_string().into())).await
    }

    /// Output, and how much there was after it.
    async fn data(&mut self, stream: &'static str, bytes: &[u8], next: Option<u64>) -> Result<(), axum::Error> {
        let mut frame = match self.encoding {
            Encoding::Base64 => json!({"type": stream, "data": STANDARD.encode(bytes), "encoding": "base64"}),
            Encoding::Text => {
                let text = if stream == "stdout" { self.stdout.push(bytes) } else { self.stderr.push(bytes) };
                if text.is_empty() {
                    return Ok(());
                }
                json!({"type": stream, "data": text})
            }
        };
        // Text may hold back a part of a character, so only bytes have a place.
        if let (Encoding::Base64, Some(next)) = (&self.encoding, next) {
            frame["next"] = json!(next);
        }
        self.send(frame).await
    }

    /// What was held back, the last frame, and the end of the socket.
    async fn finish(mut self, last: Value) -> Result<(), axum::Error> {
        for (stream, rest) in [("stdout", self.stdout.finish()), ("stderr", self.stderr.finish())] {
            if !rest.is_empty() {
                self.send(json!({"type": stream, "data": rest})).await?;
            }
        }
        self.send(last).await?;
        self.sink.close().await
    }
}
