//! The processes that clients started: starts them, lists them, signals them, and remembers for a while how they
//! ended. Knows nothing of RPC.

mod command;
mod input;
mod output;
mod pty;
pub mod reaper;
mod source;
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
pub use self::input::{Channel, Input, InputError};
pub use self::output::{End, Event};
use self::output::{Output, Subscribers};
pub use self::pty::Size;
use self::reaper::{Exit, Reaper};
use self::spawn::Session;
pub use self::spawn::{SpawnError, block_signals};
use crate::settings::Settings;
use crate::users::{self, LookupError, User};

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
    /// What the process reads from and writes to.
    pub streams: Streams,
    /// When it is killed.
    pub deadline: Option<Instant>,
}

/// What a process reads from and writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// Pipes to write to, and nothing to read.
    Output,
    /// Pipes to write to, and one to read from that stays open.
    Pipes,
    /// A terminal of this size, for all three.
    Terminal(Size),
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
    /// The system has no terminal to give.
    #[error("open a terminal")]
    Terminal(#[source] io::Error),
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
    /// What it reads, open until it ends or a client closes it.
    pub input: Input,
    subscribers: Subscribers,
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
        let Launched { pid, request, exit, ends } = launch.await.map_err(StartError::Interrupted)??;
        let (input, output) = ends.adopt().map_err(StartError::Streams)?;
        let (subscribers, events) = Subscribers::with_first();
        let process = Arc::new(Process { pid, command: request.command, tag: request.tag, input, subscribers });
        self.remember(process.clone());
        if let Some(deadline) = deadline {
            tokio::spawn(self.clone().limit(process.clone(), deadline));
        }
        tokio::spawn(self.follow(process, output, exit));
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

    /// A process that still runs.
    pub fn running(&self, selector: &Selector) -> Result<Arc<Process>, NoProcess> {
        self.find(selector).ok().filter(|process| process.is_running()).ok_or_else(|| selector.nothing())
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
        process.input.close();
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
    pid: Pid,
    request: Request,
    exit: oneshot::Receiver<Exit>,
    ends: OurEnds,
}

fn launch(request: Request, settings: &Settings, reaper: &Reaper) -> Result<Launched, StartError> {
    let user = users::lookup(&request.user)?;
    let cwd = command::working_directory(&request.command, &user, settings)?;
    let (ends, theirs) = connect(request.streams, &user)?;
    let stdio = [theirs.stdin.as_fd(), theirs.stdout.as_fd(), theirs.stderr.as_fd()];
    let session = match request.streams {
        Streams::Output | Streams::Pipes => Session::Plain,
        Streams::Terminal(_) => Session::OnTerminal,
    };
    let program = command::program(&request.command, &user, settings, &cwd, stdio, session)?;

    let spawning = reaper.spawning();
    let pid = spawn::spawn(&program).map_err(|error| refused(error, &request.command.cmd, cwd))?;
    let exit = spawning.started(pid);
    Ok(Launched { pid, request, exit, ends })
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

/// Our ends of a process's streams.
enum OurEnds {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// One to read from and the same to write to.
    Terminal(OwnedFd, OwnedFd),
}

/// The process's ends.
struct TheirEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn connect(streams: Streams, user: &User) -> Result<(OurEnds, TheirEnds), StartError> {
    match streams {
        Streams::Output => pipes(None, null()),
        Streams::Pipes => {
            let (read, write) = pipe().map_err(StartError::Streams)?;
            pipes(Some(write), Ok(read))
        }
        Streams::Terminal(size) => {
            let (ours, theirs) = pty::open(size, user).map_err(StartError::Terminal)?;
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(StartError::Streams);
            let theirs = TheirEnds { stdin: copy(&theirs)?, stdout: copy(&theirs)?, stderr: theirs };
            Ok((OurEnds::Terminal(copy(&ours)?, ours), theirs))
        }
    }
}

fn pipes(ours: Option<OwnedFd>, theirs: io::Result<OwnedFd>) -> Result<(OurEnds, TheirEnds), StartError> {
    let (stdout, child_stdout) = pipe().map_err(StartError::Streams)?;
    let (stderr, child_stderr) = pipe().map_err(StartError::Streams)?;
    let stdin = theirs.map_err(StartError::Streams)?;
    let theirs = TheirEnds { stdin, stdout: child_stdout, stderr: child_stderr };
    Ok((OurEnds::Pipes { stdin: ours, stdout, stderr }, theirs))
}

impl OurEnds {
    /// Makes them known to the runtime.
    fn adopt(self) -> io::Result<(Input, Output)> {
        Ok(match self {
            Self::Pipes { stdin: None, stdout, stderr } => (Input::none(), Output::pipes(stdout, stderr)?),
            Self::Pipes { stdin: Some(stdin), stdout, stderr } => {
                (Input::new(Channel::Stdin, stdin)?, Output::pipes(stdout, stderr)?)
            }
            Self::Terminal(read, write) => (Input::new(Channel::Terminal, write)?, Output::terminal(read)?),
        })
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The reading end and the writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}
