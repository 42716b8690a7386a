//! Watching of directories, both ways that the contract has: a stream of what happens, and a watcher that is asked for it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::stream::{self, StreamExt};
use proto::filesystem as wire;
use proto::filesystem::watch_dir_response::{self, Event};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::filesystem::convert;
use crate::files::{Change, Happened, Watch};

/// Watchers that are kept at once.
const WATCHERS: usize = 256;

/// Events that wait for a client of a stream; the kernel keeps others.
const QUEUE: usize = 256;

type Shared = Arc<Mutex<Watch>>;

/// A watcher that will be asked.
#[derive(Debug)]
struct Kept {
    watch: Shared,
    /// Closed with the watcher, which ends the thread that gathers.
    _open: OwnedFd,
}

/// The watchers that clients have made and not removed.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<HashMap<String, Kept>>);

impl Watchers {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one, and returns what it is called. Whoever asks is told what happened since, however deep.
    pub fn add(&self, watch: Watch) -> Result<String, ConnectError> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(internal)?;
        let (end, open) = pipe_with(PipeFlags::CLOEXEC).map_err(internal)?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut all = self.all();
        if all.len() >= WATCHERS {
            return Err(ConnectError::resource_exhausted(format!("there are {WATCHERS} watchers already")));
        }
        let watch = Arc::new(Mutex::new(watch));
        all.insert(id.clone(), Kept { watch: watch.clone(), _open: open });
        tokio::task::spawn_blocking(move || gather(&watch, &end));
        Ok(id)
    }

    /// What one has seen since it was last asked.
    pub async fn take(&self, id: &str) -> Result<Vec<wire::FilesystemEvent>, ConnectError> {
        let watch = self.all().get(id).map(|kept| kept.watch.clone()).ok_or_else(|| no_watcher(id))?;
        let take = move || lock(&watch).take();
        let changes = tokio::task::spawn_blocking(take).await;
        Ok(changes.map_err(|error| ConnectError::internal(error.to_string()))?.into_iter().map(event).collect())
    }

    /// Ends one.
    pub fn remove(&self, id: &str) -> Result<(), ConnectError> {
        self.all().remove(id).map(drop).ok_or_else(|| no_watcher(id))
    }
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gather(watch: &Mutex<Watch>, end: &OwnedFd) {
    let bell = lock(watch).bell();
    while bell.wait(end) {
        lock(watch).gather();
    }
}

fn internal(error: rustix::io::Errno) -> ConnectError {
    ConnectError::internal(error.to_string())
}

fn no_watcher(id: &str) -> ConnectError {
    let id: String = id.chars().take(80).collect();
    ConnectError::not_found(format!("watcher with id {id} not found"))
}

/// What a stream hears from.
struct Following {
    changes: mpsc::Receiver<Change>,
    keepalive: Duration,
    deadline: Option<Instant>,
    /// Closed with the stream, which ends the thread that reads.
    _open: OwnedFd,
}

/// Everything that happens, from a first message that says that it is being watched.
pub fn follow(
    watch: Watch,
    keepalive: Duration,
    deadline: Option<std::time::Instant>,
) -> Result<ServiceStream<wire::WatchDirResponse>, ConnectError> {
    let (end, open) = pipe_with(PipeFlags::CLOEXEC).map_err(internal)?;
    let (sender, changes) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || read(watch, &end, &sender));
    let deadline = deadline.map(Instant::from_std);
    let following = Following { changes, keepalive, deadline, _open: open };
    let start = Ok(respond(watch_dir_response::StartEvent::default()));
    Ok(Box::pin(stream::once(async { start }).chain(stream::unfold(Some(following), next))))
}

fn read(mut watch: Watch, end: &OwnedFd, sender: &mpsc::Sender<Change>) {
    let bell = watch.bell();
    while bell.wait(end) {
        for change in watch.take() {
            if sender.blocking_send(change).is_err() {
                return;
            }
        }
    }
}

type Told = Result<wire::WatchDirResponse, ConnectError>;

async fn next(following: Option<Following>) -> Option<(Told, Option<Following>)> {
    let mut following = following?;
    let heard = timeout(following.keepalive, following.changes.recv());
    let heard = match following.deadline {
        Some(deadline) => timeout_at(deadline, heard).await,
        None => Ok(heard.await),
    };
    match heard {
        Err(_) => Some((Err(ConnectError::deadline_exceeded("the time to watch is over")), None)),
        Ok(Err(_)) => Some((Ok(respond(watch_dir_response::KeepAlive::default())), Some(following))),
        Ok(Ok(Some(change))) => Some((Ok(respond(event(change))), Some(following))),
        Ok(Ok(None)) => None,
    }
}

fn respond(event: impl Into<Event>) -> wire::WatchDirResponse {
    wire::WatchDirResponse { event: Some(event.into()), ..Default::default() }
}

fn event(change: Change) -> wire::FilesystemEvent {
    let kind = match change.happened {
        Happened::Created => wire::EventType::EVENT_TYPE_CREATE,
        Happened::Written => wire::EventType::EVENT_TYPE_WRITE,
        Happened::Removed => wire::EventType::EVENT_TYPE_REMOVE,
        Happened::Renamed => wire::EventType::EVENT_TYPE_RENAME,
        Happened::Changed => wire::EventType::EVENT_TYPE_CHMOD,
    };
    let entry = change.entry.map(convert).map(Into::into).unwrap_or_default();
    wire::FilesystemEvent { name: change.name, r#type: kind.into(), entry, ..Default::default() }
}
