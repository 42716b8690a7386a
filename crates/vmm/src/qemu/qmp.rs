//! A client for QMP, QEMU's control protocol: JSON lines over a unix socket, answers matched to commands by id.
//!
//! The other end has talked to a hostile guest and may itself be hostile: lines are bounded, every command has a
//! deadline, and what cannot be understood is dropped.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::VmError;

/// The longest line that is read; QEMU's own are far shorter for the commands used here.
const LINE_LIMIT: usize = 256 * 1024;

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(20);

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A connection. Commands may be sent from several tasks at once.
#[derive(Debug)]
pub(super) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    /// Those who wait for an answer; `None` once the connection is closed.
    waiting: Waiting,
    next_id: AtomicU64,
}

/// One line from QEMU. Greeting and events have no id.
#[derive(Debug, Deserialize)]
struct Answer {
    id: Option<u64>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Connects and leaves the negotiation mode. Works again after an earlier client was lost.
    pub async fn connect(socket: &Path) -> Result<Self, VmError> {
        let gone = |_| VmError::Gone { command: "connect" };
        let (_directory, short) = super::short_socket_path(socket).map_err(gone)?;
        let qmp = Self::on(UnixStream::connect(short).await.map_err(gone)?);
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    fn on(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(read_answers(reader, waiting.clone()));
        Self { writer: tokio::sync::Mutex::new(writer), waiting, next_id: AtomicU64::new(1) }
    }

    /// Runs a command and returns its value.
    pub async fn execute(&self, command: &'static str, arguments: Value) -> Result<Value, VmError> {
        match tokio::time::timeout(DEADLINE, self.ask(command, arguments, None)).await {
            Ok(answer) => answer,
            Err(_) => Err(VmError::Silent { command }),
        }
    }

    /// Hands a descriptor over and returns the number of the set that it is then known by.
    pub async fn lend(&self, descriptor: &OwnedFd) -> Result<u64, VmError> {
        let command = "add-fd";
        match tokio::time::timeout(DEADLINE, self.ask(command, json!({}), Some(descriptor))).await {
            Ok(answer) => {
                answer?["fdset-id"].as_u64().ok_or(VmError::Refused { command, reason: "no set was named".to_owned() })
            }
            Err(_) => Err(VmError::Silent { command }),
        }
    }

    async fn ask(
        &self,
        command: &'static str,
        arguments: Value,
        descriptor: Option<&OwnedFd>,
    ) -> Result<Value, VmError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let registered = Registered::new(&self.waiting, id, sender).ok_or(VmError::Gone { command })?;
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": id }));
        let sent = write(&mut *self.writer.lock().await, line.as_bytes(), descriptor).await;
        sent.map_err(|_| VmError::Gone { command })?;
        let answer = receiver.await.map_err(|_| VmError::Gone { command });
        drop(registered);
        match answer? {
            Answer { error: Some(refusal), .. } => Err(VmError::Refused { command, reason: refusal.desc }),
            Answer { value, .. } => Ok(value.unwrap_or(Value::Null)),
        }
    }
}

/// Writes a line. A descriptor travels with its first byte.
async fn write(writer: &mut OwnedWriteHalf, line: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let Some(descriptor) = descriptor else { return writer.write_all(line).await };
    let socket: &UnixStream = writer.as_ref();
    let sent = socket.async_io(Interest::WRITABLE, || {
        let descriptors = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::ArgumentListTooLong.into());
        }
        Ok(rustix::net::sendmsg(socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
    });
    let sent = sent.await?;
    writer.write_all(&line[sent..]).await
}

/// A place in the list of those who wait, given up even when the waiting task is cancelled.
struct Registered<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl<'a> Registered<'a> {
    fn new(waiting: &'a Waiting, id: u64, sender: oneshot::Sender<Answer>) -> Option<Self> {
        let mut list = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        list.as_mut()?.insert(id, sender);
        Some(Self { waiting, id })
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some(list) = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            list.remove(&self.id);
        }
    }
}

async fn read_answers(reader: OwnedReadHalf, waiting: Waiting) {
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(LINE_LIMIT));
    while let Some(Ok(line)) = lines.next().await {
        let Ok(answer) = serde_json::from_str::<Answer>(&line) else { continue };
        let Some(id) = answer.id else { continue };
        let sender = waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|list| list.remove(&id));
        if let Some(sender) = sender {
            // The one who asked may have given up.
            let _ = sender.send(answer);
        }
    }
    // Drops the senders, so that everyone who waits learns that the connection is closed.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// For a fuzzer, which is no part of this crate.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::*;

    /// Asks a monitor that says `lines`, whatever it is asked, and hangs up.
    pub async fn converse(lines: &[u8]) {
        let (ours, mut theirs) = UnixStream::pair().expect("there are descriptors");
        let lines = lines.to_owned();
        tokio::spawn(async move {
            let _ = theirs.write_all(&lines).await;
            let _ = theirs.shutdown().await;
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        });
        let qmp = Qmp::on(ours);
        for command in ["qmp_capabilities", "query-status", "query-block"] {
            // Hung up means answered, at the latest.
            assert!(!matches!(qmp.execute(command, json!({})).await, Err(VmError::Silent { .. })));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    /// A QEMU that answers each line with what `reply` makes of it.
    pub(in crate::qemu) async fn fake_qemu(
        reply: impl Fn(Value) -> Option<String> + Send + 'static,
    ) -> (tempfile::TempDir, Qmp) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            writer.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let request: Value = serde_json::from_str(&line).unwrap();
                let answer = if request["execute"] == "qmp_capabilities" {
                    Some(json!({"return": {}, "id": request["id"]}).to_string())
                } else {
                    reply(request)
                };
                let Some(answer) = answer else { return };
                if writer.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
            }
        });
        let qmp = Qmp::connect(&socket).await.unwrap();
        (directory, qmp)
    }

    #[tokio::test]
    async fn answers_are_matched_by_id_past_events_and_noise() {
        let (_directory, qmp) = fake_qemu(|request| {
            let id = request["id"].as_u64().unwrap();
            Some(format!("{{\"event\":\"STOP\"}}\nnot json\n{{\"return\":1,\"id\":999}}\n{{\"return\":{{\"n\":{id}}},\"id\":{id}}}"))
        })
        .await;
        assert_eq!(qmp.execute("query-status", json!({})).await.unwrap()["n"], 2);
        assert_eq!(qmp.execute("query-status", json!({})).await.unwrap()["n"], 3);
    }

    #[tokio::test]
    async fn a_refusal_carries_its_reason() {
        let (_directory, qmp) = fake_qemu(|request| {
            Some(json!({"error": {"class": "x", "desc": "no way"}, "id": request["id"]}).to_string())
        })
        .await;
        let error = qmp.execute("cont", json!({})).await.unwrap_err();
        assert_eq!(error.to_string(), "the virtual machine monitor refused cont: no way");
    }

    #[tokio::test]
    async fn a_closed_connection_ends_every_wait() {
        let (_directory, qmp) = fake_qemu(|_| None).await;
        assert!(matches!(qmp.execute("stop", json!({})).await, Err(VmError::Gone { command: "stop" })));
        assert!(matches!(qmp.execute("cont", json!({})).await, Err(VmError::Gone { command: "cont" })));
    }

    #[tokio::test]
    async fn a_line_without_end_closes_the_connection_instead_of_filling_memory() {
        let (_directory, qmp) = fake_qemu(|_| Some("x".repeat(LINE_LIMIT * 2))).await;
        assert!(matches!(qmp.execute("stop", json!({})).await, Err(VmError::Gone { .. })));
    }
}
