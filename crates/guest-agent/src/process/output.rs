//! Carries what a process writes to those who listen, in order, and says how it ended after its last word. Memory is
//! bounded: a slow listener slows the process down, one that went away is forgotten, and without any the output is
//! dropped. Knows nothing of how events travel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::reaper::Exit;

/// The largest piece of output in one event.
const CHUNK: usize = 32 * 1024;
/// Pieces no larger than this are copied, so that a few bytes do not hold a whole chunk.
const SMALL: usize = 4 * 1024;
/// Events that wait for one listener.
const QUEUE: usize = 4;
/// How long after a process's end its pipes are followed when something it started still holds them.
const GRACE: Duration = Duration::from_millis(100);

/// What happens to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote this to standard output.
    Stdout(Bytes),
    /// It wrote this to standard error.
    Stderr(Bytes),
    /// It ended; nothing follows.
    End(End),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself or by a signal.
    Exited(Exit),
    /// It was killed because its time was over.
    TimedOut,
}

/// Those who listen to one process.
#[derive(Debug, Default)]
pub struct Subscribers {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<mpsc::Sender<Event>>,
    timed_out: bool,
    end: Option<End>,
}

impl Subscribers {
    /// With one listener, who is there before the process says anything.
    pub fn with_first() -> (Self, mpsc::Receiver<Event>) {
        let subscribers = Self::default();
        let events = subscribers.add();
        (subscribers, events)
    }

    /// One more listener, from now on; of a process that ended it hears just that.
    pub fn add(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        match state.end {
            // An empty queue takes one event.
            Some(end) => drop(sender.try_send(Event::End(end))),
            None => state.listeners.push(sender),
        }
        receiver
    }

    /// Whether the end has been told.
    pub fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Returns when the end has been told.
    pub async fn ended(&self) {
        let told = self.ended.notified();
        if !self.has_ended() {
            told.await;
        }
    }

    /// Whether the coming end is because of the time.
    pub fn set_timed_out(&self, timed_out: bool) {
        self.lock().timed_out = timed_out;
    }

    async fn publish(&self, event: Event) {
        let listeners = self.lock().listeners.clone();
        for listener in listeners {
            if listener.send(event.clone()).await.is_err() {
                self.lock().listeners.retain(|other| !other.same_channel(&listener));
            }
        }
    }

    async fn end(&self, exit: Exit) {
        let (listeners, end) = {
            let mut state = self.lock();
            let end = if state.timed_out { End::TimedOut } else { End::Exited(exit) };
            state.end = Some(end);
            (std::mem::take(&mut state.listeners), end)
        };
        self.ended.notify_waiters();
        for listener in listeners {
            // One that has gone does not want to know.
            let _ = listener.send(Event::End(end)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reading ends of a process's standard output and error.
#[derive(Debug)]
pub struct Output {
    stdout: Source,
    stderr: Source,
}

#[derive(Debug)]
struct Source {
    /// None after the end of file.
    pipe: Option<pipe::Receiver>,
    buffer: Vec<u8>,
}

impl Output {
    /// Must be called where the runtime can be found.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self { stdout: Source::new(stdout)?, stderr: Source::new(stderr)? })
    }

    /// Publishes all output and then the end. Gives back the pipes, which something else may still hold.
    pub async fn relay(mut self, mut exit: oneshot::Receiver<Exit>, subscribers: &Subscribers) -> Self {
        let mut ended = None;
        let grace = tokio::time::sleep_until(Instant::now());
        tokio::pin!(grace);
        while ended.is_none() || self.is_open() {
            tokio::select! {
                chunk = self.stdout.read() => publish(subscribers, Event::Stdout, chunk).await,
                chunk = self.stderr.read() => publish(subscribers, Event::Stderr, chunk).await,
                result = &mut exit, if ended.is_none() => {
                    ended = Some(result.unwrap_or(Exit::Signal(0)));
                    grace.as_mut().reset(Instant::now() + GRACE);
                }
                () = &mut grace, if ended.is_some() => {
                    self.stdout.relay_written(subscribers, Event::Stdout).await;
                    self.stderr.relay_written(subscribers, Event::Stderr).await;
                    break;
                }
            }
        }
        subscribers.end(ended.unwrap_or(Exit::Signal(0))).await;
        self
    }

    /// Reads to the end of both pipes for nobody.
    pub async fn discard(mut self) {
        while self.is_open() {
            tokio::select! {
                _ = self.stdout.read() => {}
                _ = self.stderr.read() => {}
            }
        }
    }

    fn is_open(&self) -> bool {
        self.stdout.pipe.is_some() || self.stderr.pipe.is_some()
    }
}

async fn publish(subscribers: &Subscribers, kind: fn(Bytes) -> Event, chunk: Option<Bytes>) {
    if let Some(chunk) = chunk {
        subscribers.publish(kind(chunk)).await;
    }
}

impl Source {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: Some(pipe::Receiver::from_owned_fd(fd)?), buffer: Vec::new() })
    }

    /// The next piece, or none at the end of file, after which it never returns. Can be dropped at any time.
    async fn read(&mut self) -> Option<Bytes> {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        self.buffer.reserve(CHUNK);
        match pipe.read_buf(&mut (&mut self.buffer).limit(CHUNK)).await {
            Ok(0) | Err(_) => {
                self.pipe = None;
                None
            }
            Ok(_) => Some(self.take()),
        }
    }

    /// Publishes what is in the pipe now, and not what is added meanwhile: that could go on for ever.
    async fn relay_written(&mut self, subscribers: &Subscribers, kind: fn(Bytes) -> Event) {
        let Some(pipe) = &self.pipe else { return };
        let mut left = rustix::io::ioctl_fionread(pipe.as_fd()).unwrap_or(0);
        while left > 0 {
            let Some(chunk) = self.read().await else { return };
            left = left.saturating_sub(chunk.len() as u64);
            subscribers.publish(kind(chunk)).await;
        }
    }

    fn take(&mut self) -> Bytes {
        if self.buffer.len() > SMALL {
            return std::mem::take(&mut self.buffer).into();
        }
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        chunk
    }
}
