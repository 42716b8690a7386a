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
    /// It is over. The last event.
    Exit(Exit),
}

/// A running command's events. Dropping it closes the connection, and the server then kills the command.
#[derive(Debug)]
pub struct ExecStream {
    socket: WebSocketStream<TcpStream>,
    /// For errors.
    base: String,
    is_over: bool,
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
}

impl Client {
    /// Starts a command and follows it.
    pub async fn exec_stream(&self, id: &SandboxId, start: &ExecStart) -> Result<ExecStream, Error> {
        let socket = self.connect().await?;
        let url = self.endpoint(&["v1", "sandboxes", id.as_str(), "exec", "stream"]);
        let address = url.as_str().replacen("http", "ws", 1);
        let mut request = address.into_client_request().map_err(|error| self.refused(error))?;
        request.headers_mut().extend(self.key_header());
        let socket = timeout(HANDSHAKE_LIMIT, client_async(request, socket)).await;
        let (socket, _) = socket
            .map_err(|_| Error::Timeout { action: ACTION, base: self.base_url().to_owned(), limit: HANDSHAKE_LIMIT })?
            .map_err(|error| self.refused(error))?;
        let mut stream = ExecStream { socket, base: self.base_url().to_owned(), is_over: false };
        stream.send(&ClientFrame::Start { start, encoding: "base64" }).await?;
        Ok(stream)
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
                    if let Some(event) = event(&text)? {
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

/// What a frame tells, if it tells anything.
fn event(text: &str) -> Result<Option<ExecEvent>, Error> {
    let strange = |source| Error::Answer { action: ACTION, source };
    let event = match serde_json::from_str(text).map_err(|error| strange(error.into()))? {
        ServerFrame::Start { pid } => ExecEvent::Started(pid),
        ServerFrame::Stdout(data) => ExecEvent::Stdout(data.bytes().map_err(|error| strange(error.into()))?),
        ServerFrame::Stderr(data) => ExecEvent::Stderr(data.bytes().map_err(|error| strange(error.into()))?),
        ServerFrame::Exit { exit_code, status } => ExecEvent::Exit(Exit::from_frame(exit_code, &status)),
        ServerFrame::Error { data } => return Err(Error::Command(data)),
        ServerFrame::Unknown => return Ok(None),
    };
    Ok(Some(event))
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
