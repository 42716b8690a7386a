//! Carries what a process writes to those who listen, in order, and says how it ended after its last word. Memory is
//! bounded: a slow listener slows the process down, one that went away is forgotten, and without any the output is
//! dropped. Knows nothing of how events travel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::reaper::Exit;
use super::source::Source;

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
    /// It wrote this to its terminal.
    Terminal(Bytes),
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

/// What a process writes to, from our side.
#[derive(Debug)]
pub struct Output {
    /// Standard output, or the terminal.
    first: Source,
    first_kind: fn(Bytes) -> Event,
    stderr: Source,
}

impl Output {
    /// Standard output and error. Must be called where the runtime can be found.
    pub fn pipes(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Self> {
        Ok(Self { first: Source::pipe(stdout)?, first_kind: Event::Stdout, stderr: Source::pipe(stderr)? })
    }

    /// A terminal, which is both. Must be called where the runtime can be found.
    pub fn terminal(terminal: OwnedFd) -> io::Result<Self> {
        Ok(Self { first: Source::terminal(terminal)?, first_kind: Event::Terminal, stderr: Source::none() })
    }

    /// Publishes all output and then the end. Gives back the sources, which something else may still write to.
    pub async fn relay(mut self, mut exit: oneshot::Receiver<Exit>, subscribers: &Subscribers) -> Self {
        let mut ended = None;
        let grace = tokio::time::sleep_until(Instant::now());
        tokio::pin!(grace);
        while ended.is_none() || self.is_open() {
            tokio::select! {
                chunk = self.first.read() => publish(subscribers, self.first_kind, chunk).await,
                chunk = self.stderr.read() => publish(subscribers, Event::Stderr, chunk).await,
                result = &mut exit, if ended.is_none() => {
                    ended = Some(result.unwrap_or(Exit::Signal(0)));
                    grace.as_mut().reset(Instant::now() + GRACE);
                }
                () = &mut grace, if ended.is_some() => {
                    relay_written(&mut self.first, subscribers, self.first_kind).await;
                    relay_written(&mut self.stderr, subscribers, Event::Stderr).await;
                    break;
                }
            }
        }
        subscribers.end(ended.unwrap_or(Exit::Signal(0))).await;
        self
    }

    /// Reads to the end of both for nobody.
    pub async fn discard(mut self) {
        while self.is_open() {
            tokio::select! {
                _ = self.first.read() => {}
                _ = self.stderr.read() => {}
            }
        }
    }

    fn is_open(&self) -> bool {
        self.first.is_open() || self.stderr.is_open()
    }
}

async fn publish(subscribers: &Subscribers, kind: fn(Bytes) -> Event, chunk: Option<Bytes>) {
    if let Some(chunk) = chunk {
        subscribers.publish(kind(chunk)).await;
    }
}

/// Publishes what is there now, and not what is added meanwhile: that could go on for ever.
async fn relay_written(source: &mut Source, subscribers: &Subscribers, kind: fn(Bytes) -> Event) {
    let mut left = source.waiting();
    while left > 0 {
        let Some(chunk) = source.read().await else { return };
        left = left.saturating_sub(chunk.len() as u64);
        subscribers.publish(kind(chunk)).await;
    }
}
