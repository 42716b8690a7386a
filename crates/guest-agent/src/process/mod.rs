//! The processes that clients started: starts them, lists them, signals them, and remembers for a while how they
//! ended. Knows nothing of RPC.

mod command;
mod output;
pub mod reaper;
mod spawn;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;
use tokio::time::Instant;

pub use self::command::{Command, CommandError};
pub use self::output::{End, Event};
use self::output::{Output, Subscribers};
use self::reaper::{Exit, Reaper};
pub use self::spawn::{SpawnError, block_signals};
use crate::settings::Settings;
use crate::users::{self, LookupError};

/// How long a process that ended can still be asked about.
const REMEMBERED: Duration = Duration::from_secs(30);

/// What to start and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The program.
    pub command: Command,
    /// Name of the user to be.
    pub user: String,
    /// A name by which clients find the process again.
    pub tag: Option<String>,
    /// What the process reads.
    pub stdin: Stdin,
    /// When it is killed.
    pub deadline: Option<Instant>,
}

/// Standard input of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing to read.
    Null,
    /// A pipe that stays open.
    Pipe,
}

/// Which process is meant.
#[derive(Clone, Debug)]
pub enum Selector {
    /// By number.
    Pid(u32),
    /// By the name it was given.
    Tag(String),
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such user.
    #[error(transparent)]
    User(#[from] LookupError),
    /// The request makes no sense.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The working directory is not there.
    #[error("cwd '{0}' does not exist")]
    NoWorkingDirectory(String),
    /// No pipe to the process could be made.
    #[error("connect standard streams")]
    Streams(#[source] io::Error),
    /// The agent gave up half-way.
    #[error("start the process")]
    Interrupted(#[source] JoinError),
    /// The system refused.
    #[error("start '{cmd}'")]
    Spawn {
        /// The program.
        cmd: String,
        /// What went wrong.
        source: SpawnError,
    },
}

/// No running process is the one that was meant.
#[derive(Debug, thiserror::Error)]
pub enum NoProcess {
    /// By number.
    #[error("process with pid {0} not found")]
    Pid(u32),
    /// By name.
    #[error("process with tag {0} not found")]
    Tag(String),
}

/// A process that runs, or ended a short while ago.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// As it was asked for.
    pub command: Command,
    /// As it was asked for.
    pub tag: Option<String>,
    subscribers: Subscribers,
    /// Kept open so that the process does not read an end of file.
    _stdin: Option<OwnedFd>,
}

/// A process and what it says from now on.
#[derive(Debug)]
pub struct Attached {
    /// Its number.
    pub pid: Pid,
    /// Its output, then its end.
    pub events: mpsc::Receiver<Event>,
}

/// All processes of the sandbox that clients started.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    table: Arc<Mutex<HashMap<u32, Arc<Process>>>>,
    reaper: Reaper,
}

impl Processes {
    /// Processes whose exits `reaper` tells.
    pub fn new(reaper: Reaper) -> Self {
        Self { table: Arc::default(), reaper }
    }

    /// Starts a process. Once begun it is seen through, also when the caller goes away.
    pub async fn start(&self, request: Request, settings: Arc<Settings>) -> Result<Attached, StartError> {
        let started = tokio::spawn(self.clone().start_and_follow(request, settings)).await;
        started.unwrap_or_else(|gone| Err(StartError::Interrupted(gone)))
    }

    async fn start_and_follow(self, request: Request, settings: Arc<Settings>) -> Result<Attached, StartError> {
        let reaper = self.reaper.clone();
        let deadline = request.deadline;
        // A program on a strange file system can take its time to start, so the thread that serves does not wait.
        let launch = tokio::task::spawn_blocking(move || launch(request, &settings, &reaper));
        let launched = launch.await.map_err(StartError::Interrupted)??;
        let output = Output::new(launched.stdout, launched.stderr).map_err(StartError::Streams)?;
        let (process, events) = (Arc::new(launched.process), launched.events);
        let pid = process.pid;
        self.remember(process.clone());
        if let Some(deadline) = deadline {
            tokio::spawn(self.clone().limit(process.clone(), deadline));
        }
        tokio::spawn(self.follow(process, output, launched.exit));
        Ok(Attached { pid, events })
    }

    /// The processes that run.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let mut running: Vec<_> = self.lock().values().filter(|process| process.is_running()).cloned().collect();
        running.sort_by_key(|process| number(process.pid));
        running
    }

    /// Attaches to a process: its output from now on, or just its end.
    pub fn attach(&self, selector: &Selector) -> Result<Attached, NoProcess> {
        let process = self.find(selector)?;
        Ok(Attached { pid: process.pid, events: process.subscribers.add() })
    }

    /// Signals a process and all that it started in its session's first group.
    pub fn signal(&self, selector: &Selector, signal: Signal) -> Result<(), NoProcess> {
        let process = self.find(selector)?;
        if self.reaper.signal_group(process.pid, signal) { Ok(()) } else { Err(selector.nothing()) }
    }

    fn find(&self, selector: &Selector) -> Result<Arc<Process>, NoProcess> {
        let table = self.lock();
        let found = match selector {
            Selector::Pid(pid) => table.get(pid),
            // A running one first: an ended one keeps its name only until it is used again.
            Selector::Tag(tag) => {
                let mut tagged = table.values().filter(|process| process.tag.as_ref() == Some(tag));
                tagged.clone().find(|process| process.is_running()).or_else(|| tagged.next())
            }
        };
        found.cloned().ok_or_else(|| selector.nothing())
    }

    fn remember(&self, process: Arc<Process>) {
        let mut table = self.lock();
        table.retain(|_, old| old.is_running() || process.tag.is_none() || old.tag != process.tag);
        table.insert(number(process.pid), process);
    }

    /// Kills a process that is still there at its deadline.
    async fn limit(self, process: Arc<Process>, deadline: Instant) {
        if tokio::time::timeout_at(deadline, process.subscribers.ended()).await.is_err() {
            process.subscribers.set_timed_out(true);
            // One that has just ended by itself was in time.
            if !self.reaper.signal_group(process.pid, Signal::KILL) {
                process.subscribers.set_timed_out(false);
            }
        }
    }

    async fn follow(self, process: Arc<Process>, output: Output, exit: oneshot::Receiver<Exit>) {
        let rest = output.relay(exit, &process.subscribers).await;
        // What the process left behind may go on writing; nobody listens, but it must not die of that.
        tokio::spawn(rest.discard());
        tokio::time::sleep(REMEMBERED).await;
        let pid = number(process.pid);
        let mut table = self.lock();
        if table.get(&pid).is_some_and(|current| Arc::ptr_eq(current, &process)) {
            table.remove(&pid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Process>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn is_running(&self) -> bool {
        !self.subscribers.has_ended()
    }
}

impl Selector {
    fn nothing(&self) -> NoProcess {
        match self {
            Self::Pid(pid) => NoProcess::Pid(*pid),
            Self::Tag(tag) => NoProcess::Tag(tag.clone()),
        }
    }
}

/// A process that was started and that nobody follows yet.
struct Launched {
    process: Process,
    events: mpsc::Receiver<Event>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    exit: oneshot::Receiver<Exit>,
}

fn launch(request: Request, settings: &Settings, reaper: &Reaper) -> Result<Launched, StartError> {
    let user = users::lookup(&request.user)?;
    let cwd = command::working_directory(&request.command, &user, settings)?;
    let (stdin, child_stdin) = stdin(request.stdin).map_err(StartError::Streams)?;
    let (stdout, child_stdout) = pipe().map_err(StartError::Streams)?;
    let (stderr, child_stderr) = pipe().map_err(StartError::Streams)?;
    let stdio = [child_stdin.as_fd(), child_stdout.as_fd(), child_stderr.as_fd()];
    let program = command::program(&request.command, &user, settings, &cwd, stdio)?;

    let spawning = reaper.spawning();
    let pid = spawn::spawn(&program).map_err(|error| refused(error, &request.command.cmd, cwd))?;
    let exit = spawning.started(pid);

    let (subscribers, events) = Subscribers::with_first();
    let process = Process { pid, command: request.command, tag: request.tag, subscribers, _stdin: stdin };
    Ok(Launched { process, events, stdout, stderr, exit })
}

/// The number by which clients know a process.
pub fn number(pid: Pid) -> u32 {
    pid.as_raw_pid().unsigned_abs()
}

fn refused(source: SpawnError, cmd: &str, cwd: String) -> StartError {
    match source {
        SpawnError::WorkingDirectory(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            StartError::NoWorkingDirectory(cwd)
        }
        source => StartError::Spawn { cmd: cmd.to_owned(), source },
    }
}

/// Our end, if there is one, and the process's.
fn stdin(kind: Stdin) -> io::Result<(Option<OwnedFd>, OwnedFd)> {
    match kind {
        Stdin::Null => Ok((None, rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)),
        Stdin::Pipe => pipe().map(|(read, write)| (Some(write), read)),
    }
}

/// The reading end and the writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}
