//! Commands with live output, over a WebSocket. Output crosses in base64, so it arrives as exact bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::client::CONNECT_LIMIT;
use crate::{ApiError, Client, Error, Exit, SandboxId};

/// The server sends a ping every 30 s: one that is silent for this long is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(100);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
const ACTION: &str = "running a command";

/// A command to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecStart {
    /// The program. No shell is involved.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables beside the template's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; absent is the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the sandbox; absent is the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether it lives on when the connection is lost, and can be followed again. Else it dies with that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// When it is killed; absent is never.
    #[serde(rename = "timeout_sec", serialize_with = "seconds_or_never")]
    pub timeout: Option<u32>,
}

/// What happens to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs, with this process id in the guest.
    Started(u32),
    /// It wrote this.
    Stdout(Bytes),
    /// It wrote this to its standard error.
    Stderr(Bytes),
    /// So many bytes that it wrote are not kept any more: who follows it again came too late for them.
    Lost(u64),
    /// It is over. The last event.
    Exit(Exit),
}

/// A running command's events. Dropping it closes the connection, and the server then kills a command that is not to be
/// kept.
#[derive(Debug)]
pub struct ExecStream {
    socket: WebSocketStream<TcpStream>,
    /// For errors.
    base: String,
    is_over: bool,
    /// How much it had written after the last event.
    place: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ClientFrame<'a> {
    Start {
        #[serde(flatten)]
        start: &'a ExecStart,
        encoding: &'static str,
    },
    Stop,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ServerFrame {
    Start {
        pid: u32,
    },
    Stdout(Data),
    Stderr(Data),
    Lost {
        bytes: u64,
        next: u64,
    },
    Exit {
        exit_code: i32,
        #[serde(default)]
        status: String,
    },
    Error {
        data: String,
    },
    /// A later server's news, which an older client may pass over.
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Data {
    data: String,
    #[serde(default)]
    encoding: String,
    /// How much it had written with this.
    next: Option<u64>,
}

impl Client {
    /// Starts a command and follows it.
    pub async fn exec_stream(&self, id: &SandboxId, start: &ExecStart) -> Result<ExecStream, Error> {
        let url = self.endpoint(&["v1", "sandboxes", id.as_str(), "exec", "stream"]);
        let mut stream = self.open(url.as_str(), 0).await?;
        stream.send(&ClientFrame::Start { start, encoding: "base64" }).await?;
        Ok(stream)
    }

    /// Follows a process, by its id or tag, from a place in what it wrote: where [`ExecStream::place`] was, say.
    pub async fn follow_again(&self, id: &SandboxId, process: &str, place: u64) -> Result<ExecStream, Error> {
        let mut url = self.endpoint(&["v1", "sandboxes", id.as_str(), "processes", process, "stream"]);
        url.set_query(Some(&format!("from={place}")));
        self.open(url.as_str(), place).await
    }

    async fn open(&self, url: &str, place: u64) -> Result<ExecStream, Error> {
        let socket = self.connect().await?;
        let address = url.replacen("http", "ws", 1);
        let mut request = address.into_client_request().map_err(|error| self.refused(error))?;
        request.headers_mut().extend(self.key_header());
        let socket = timeout(HANDSHAKE_LIMIT, client_async(request, socket)).await;
        let (socket, _) = socket
            .map_err(|_| Error::Timeout { action: ACTION, base: self.base_url().to_owned(), limit: HANDSHAKE_LIMIT })?
            .map_err(|error| self.refused(error))?;
        Ok(ExecStream { socket, base: self.base_url().to_owned(), is_over: false, place })
    }

    async fn connect(&self) -> Result<TcpStream, Error> {
        let url = self.endpoint(&[]);
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or(80);
        let unreachable = |source| Error::Connect { base: self.base_url().to_owned(), source };
        let socket = timeout(CONNECT_LIMIT, TcpStream::connect((host, port)))
            .await
            .map_err(|error| unreachable(error.into()))?
            .map_err(|error| unreachable(error.into()))?;
        // Frames are small and each matters when it is written.
        socket.set_nodelay(true).map_err(|error| unreachable(error.into()))?;
        Ok(socket)
    }

    fn refused(&self, error: tungstenite::Error) -> Error {
        match error {
            tungstenite::Error::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                ApiError::from_response(response.status().as_u16(), body).into()
            }
            other => broke_off(self.base_url(), other),
        }
    }
}

impl ExecStream {
    /// The next event; `None` after [`ExecEvent::Exit`] or an error. Nothing is lost when a call is dropped before it
    /// is ready.
    pub async fn next(&mut self) -> Option<Result<ExecEvent, Error>> {
        if self.is_over {
            return None;
        }
        let event = self.receive().await;
        self.is_over = matches!(event, Ok(ExecEvent::Exit(_)) | Err(_));
        Some(event)
    }

    async fn receive(&mut self) -> Result<ExecEvent, Error> {
        loop {
            let message = timeout(SILENCE_LIMIT, self.socket.next()).await.map_err(|_| self.silent())?;
            match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some((event, next)) = event(&text)? {
                        self.place = next.unwrap_or(self.place);
                        return Ok(event);
                    }
                }
                Some(Err(error)) => return Err(broke_off(&self.base, error)),
                None | Some(Ok(Message::Close(_))) => {
                    return Err(broke_off(&self.base, tungstenite::Error::ConnectionClosed));
                }
                // Pings are answered by the socket itself.
                Some(Ok(_)) => {}
            }
        }
    }

    /// How much the command had written, to standard output and error together, after the last event.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// Asks the server to kill the command. Its end still comes as events.
    pub async fn stop(&mut self) -> Result<(), Error> {
        self.send(&ClientFrame::Stop).await
    }

    async fn send(&mut self, frame: &ClientFrame<'_>) -> Result<(), Error> {
        let text =
            serde_json::to_string(frame).map_err(|error| Error::Answer { action: ACTION, source: error.into() })?;
        self.socket.send(Message::text(text)).await.map_err(|error| broke_off(&self.base, error))
    }

    fn silent(&self) -> Error {
        Error::Timeout { action: ACTION, base: self.base.clone(), limit: SILENCE_LIMIT }
    }
}

/// What a frame tells, if it tells anything, and how much the command had written then.
fn event(text: &str) -> Result<Option<(ExecEvent, Option<u64>)>, Error> {
    let strange = |source| Error::Answer { action: ACTION, source };
    let bytes = |data: Data| {
        let next = data.next;
        Ok::<_, Error>((data.bytes().map_err(|error| strange(error.into()))?, next))
    };
    Ok(Some(match serde_json::from_str(text).map_err(|error| strange(error.into()))? {
        ServerFrame::Start { pid } => (ExecEvent::Started(pid), None),
        ServerFrame::Stdout(data) => {
            let (bytes, next) = bytes(data)?;
            (ExecEvent::Stdout(bytes), next)
        }
        ServerFrame::Stderr(data) => {
            let (bytes, next) = bytes(data)?;
            (ExecEvent::Stderr(bytes), next)
        }
        ServerFrame::Lost { bytes, next } => (ExecEvent::Lost(bytes), Some(next)),
        ServerFrame::Exit { exit_code, status } => (ExecEvent::Exit(Exit::from_frame(exit_code, &status)), None),
        ServerFrame::Error { data } => return Err(Error::Command(data)),
        ServerFrame::Unknown => return Ok(None),
    }))
}

impl Data {
    fn bytes(self) -> Result<Bytes, base64::DecodeError> {
        match self.encoding.as_str() {
            "base64" => BASE64_STANDARD.decode(self.data).map(Bytes::from),
            _ => Ok(self.data.into()),
        }
    }
}

fn broke_off(base: &str, source: tungstenite::Error) -> Error {
    Error::BrokeOff { action: ACTION, base: base.to_owned(), source: source.into() }
}

/// On this stream an absent limit would be the server's default; never is -1.
fn seconds_or_never<S: serde::Serializer>(timeout: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(timeout.map_or(-1, i64::from))
}
