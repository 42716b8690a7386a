//! Follows a process from its start to its end, in a thread of its own: takes what it writes, in order, says how it ended
//! after its last word, and kills it when its time is over. Calls of the system and nothing else, because after a capture
//! each instruction is dear. Knows nothing of how output travels.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use rustix::time::Timespec;
use tokio::sync::oneshot;

use super::Process;
use super::reaper::{Exit, Reaper};
use super::source::Source;
use super::spool::{End, Kind};

/// How long after a process's end its pipes are followed when something it started still holds them.
const GRACE: Duration = Duration::from_millis(100);

/// Somebody who comes along, in the thread that follows.
pub trait Companion {
    /// The process wrote this.
    fn heard(&mut self, kind: Kind, bytes: &Bytes);

    /// What is watched beside the process, if anything.
    fn line(&self) -> Option<BorrowedFd<'_>>;

    /// There is something on the line.
    fn rang(&mut self) -> Wish;
}

/// What a companion wants of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// That it goes on.
    GoOn,
    /// That it is killed.
    Kill,
}

/// Nobody comes along.
pub struct Alone;

impl Companion for Alone {
    fn heard(&mut self, _: Kind, _: &Bytes) {}

    fn line(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn rang(&mut self) -> Wish {
        Wish::GoOn
    }
}

/// What a process writes to, from our side.
#[derive(Debug)]
pub struct Output {
    /// Standard output, or the terminal.
    pub first: Source,
    /// Which of both it is.
    pub first_kind: Kind,
    /// Standard error.
    pub stderr: Source,
}

impl Output {
    /// Whether something may still write to it.
    pub fn is_open(&self) -> bool {
        self.first.is_open() || self.stderr.is_open()
    }

    /// Reads to the end of both for nobody: what a process left behind may go on writing, and must not die of that.
    pub fn discard(mut self) {
        while self.is_open() {
            let [first, stderr, ..] = wait_for([self.first.descriptor(), self.stderr.descriptor(), None, None], None);
            if first {
                self.first.read();
            }
            if stderr {
                self.stderr.read();
            }
        }
    }
}

/// A process that was started and is to be followed.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub process: Arc<Process>,
    pub(super) output: Output,
    /// Readable when the process has ended.
    pub(super) ended: OwnedFd,
    pub(super) exit: oneshot::Receiver<Exit>,
    pub(super) reaper: Reaper,
    pub(super) deadline: Option<Instant>,
}

/// How far a process is.
enum Life {
    Runs,
    /// It has ended, and its pipes are followed until then.
    Ended(Exit, Instant),
}

impl Started {
    /// Follows it until its end is told. Gives back what something else may still write to.
    pub fn follow(mut self, companion: &mut dyn Companion) -> (End, Output) {
        let mut timed_out = false;
        let mut life = Life::Runs;
        let exit = loop {
            let until = match life {
                Life::Ended(exit, _) if !self.output.is_open() => break exit,
                Life::Ended(_, grace) => Some(grace),
                Life::Runs => self.deadline,
            };
            let ended = matches!(life, Life::Runs).then(|| self.ended.as_fd());
            let watched = [self.output.first.descriptor(), self.output.stderr.descriptor(), ended, companion.line()];
            let [first, stderr, has_ended, rang] = wait_for(watched, until);
            if first && let Some(bytes) = self.output.first.read() {
                timed_out |= self.take(self.output.first_kind, bytes, companion);
            }
            if stderr && let Some(bytes) = self.output.stderr.read() {
                timed_out |= self.take(Kind::Stderr, bytes, companion);
            }
            if rang && companion.rang() == Wish::Kill {
                self.reaper.signal_group(self.process.pid, Signal::KILL);
            }
            match life {
                Life::Runs if has_ended => life = Life::Ended(self.exit(), Instant::now() + GRACE),
                Life::Runs if is_over(self.deadline) => timed_out |= self.time_is_over(),
                Life::Ended(exit, grace) if Instant::now() >= grace => {
                    self.take_the_rest(companion);
                    break exit;
                }
                Life::Runs | Life::Ended(..) => {}
            }
        };
        let end = if timed_out { End::TimedOut } else { End::Exited(exit) };
        self.process.end(end);
        (end, self.output)
    }

    /// Passes on what was written. Where a listener is so slow that the time is over meanwhile, says whether the process
    /// was killed for that.
    fn take(&mut self, kind: Kind, bytes: Bytes, companion: &mut dyn Companion) -> bool {
        companion.heard(kind, &bytes);
        let spool = &self.process.spool;
        let killed = !spool.wait_for_room(bytes.len(), self.deadline) && self.time_is_over();
        let spool = &self.process.spool;
        spool.wait_for_room(bytes.len(), None);
        spool.add(kind, bytes);
        killed
    }

    /// What is there now, and not what is added meanwhile: that could go on for ever.
    fn take_the_rest(&mut self, companion: &mut dyn Companion) {
        let mut left = self.output.first.waiting();
        while left > 0
            && let Some(bytes) = self.output.first.read()
        {
            left = left.saturating_sub(bytes.len() as u64);
            self.take(self.output.first_kind, bytes, companion);
        }
        let mut left = self.output.stderr.waiting();
        while left > 0
            && let Some(bytes) = self.output.stderr.read()
        {
            left = left.saturating_sub(bytes.len() as u64);
            self.take(Kind::Stderr, bytes, companion);
        }
    }

    /// Kills it. One that has just ended by itself was in time.
    fn time_is_over(&mut self) -> bool {
        self.deadline = None;
        self.reaper.signal_group(self.process.pid, Signal::KILL)
    }

    fn exit(&mut self) -> Exit {
        self.reaper.reap();
        // What was reaped was told; a number that nobody waits for is no process's.
        self.exit.try_recv().unwrap_or(Exit::Signal(0))
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Waits until one of these can be read, or is at its end, or the time is over. Says which.
fn wait_for(watched: [Option<BorrowedFd<'_>>; 4], until: Option<Instant>) -> [bool; 4] {
    let mut places = [0; 4];
    let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(4);
    for (place, fd) in watched.iter().enumerate().filter_map(|(place, fd)| Some((place, fd.as_ref()?))) {
        places[polled.len()] = place;
        polled.push(PollFd::new(fd, PollFlags::IN));
    }
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let mut ready = [false; 4];
    // Interrupted, or without memory: whoever asked looks again.
    if poll(&mut polled, left.as_ref()).is_ok() {
        for (index, fd) in polled.iter().enumerate() {
            ready[places[index]] = !fd.revents().is_empty();
        }
    }
    ready
}
