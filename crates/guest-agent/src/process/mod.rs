//! The processes that clients started: starts them, lists them, signals them, and remembers for a while how they
//! ended. Knows nothing of RPC.

mod command;
mod follow;
mod input;
mod pty;
pub mod reaper;
mod source;
mod spawn;
mod spool;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use tokio::sync::oneshot;

pub use self::command::{Command, CommandError};
use self::follow::{Alone, Output};
pub use self::follow::{Companion, Started, Wish};
pub use self::input::{Channel, Input, InputError};
pub use self::pty::Size;
use self::reaper::Reaper;
use self::source::Source;
use self::spawn::Session;
pub use self::spawn::{SpawnError, block_signals};
pub use self::spool::{Chunk, End, Event, From, Kind, Listener, Spool};
use crate::settings::Settings;
use crate::users::{self, LookupError, User};

/// How long a process that ended can still be asked about.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many such are remembered at most.
const REMEMBERED_COUNT: usize = 256;
/// How much of what they wrote, all together.
const REMEMBERED_BYTES: usize = 4 << 20;

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
    #[error("start the process: interrupted")]
    Interrupted,
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
    /// What it wrote, and how it ended.
    pub spool: Arc<Spool>,
}

/// A process and somebody who listens to it.
#[derive(Debug)]
pub struct Attached {
    /// Its number.
    pub pid: Pid,
    /// Hears its output, then its end.
    pub events: Listener,
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
        let (told, started) = oneshot::channel();
        let this = self.clone();
        // A program on a strange file system can take its time to start, and what it writes is waited for.
        tokio::task::spawn_blocking(move || match this.launch(request, &settings) {
            Err(error) => drop(told.send(Err(error))),
            Ok(started) => {
                let events = started.process.spool.listen(From::Offset(0));
                // One that nobody waits for any more is followed all the same.
                let _ = told.send(Ok(Attached { pid: started.process.pid, events }));
                started.follow(&mut Alone).1.discard();
            }
        });
        started.await.unwrap_or(Err(StartError::Interrupted))
    }

    /// Starts a process that the calling thread is to follow. Where it has input, that thread must be one of the runtime.
    pub fn launch(&self, request: Request, settings: &Settings) -> Result<Started, StartError> {
        let user = users::lookup(&request.user)?;
        let cwd = command::working_directory(&request.command, &user, settings)?;
        let (ours, theirs) = connect(request.streams, &user)?;
        let stdio = [theirs.stdin.as_fd(), theirs.stdout.as_fd(), theirs.stderr.as_fd()];
        let session = match request.streams {
            Streams::Output | Streams::Pipes => Session::Plain,
            Streams::Terminal(_) => Session::OnTerminal,
        };
        let program = command::program(&request.command, &user, settings, &cwd, stdio, session)?;

        let spawning = self.reaper.spawning();
        let child = spawn::spawn(&program).map_err(|error| refused(error, &request.command.cmd, cwd))?;
        let exit = spawning.started(child.pid);
        let Request { command, tag, deadline, .. } = request;
        let process = Process { pid: child.pid, command, tag, input: ours.input, spool: Arc::default() };
        let process = Arc::new(process);
        self.remember(process.clone());
        let (output, reaper) = (ours.output, self.reaper.clone());
        Ok(Started { process, output, ended: child.ended, exit, reaper, deadline })
    }

    /// The processes that run.
    pub fn list(&self) -> Vec<Arc<Process>> {
        let mut running: Vec<_> = self.lock().values().filter(|process| process.is_running()).cloned().collect();
        running.sort_by_key(|process| number(process.pid));
        running
    }

    /// Attaches to a process: its output from there on, then its end.
    pub fn attach(&self, selector: &Selector, from: From) -> Result<Attached, NoProcess> {
        let process = self.find(selector)?;
        Ok(Attached { pid: process.pid, events: process.spool.listen(from) })
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
        forget(&mut table);
        table.retain(|_, old| old.is_running() || process.tag.is_none() || old.tag != process.tag);
        table.insert(number(process.pid), process);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Arc<Process>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets processes that ended long ago, and the oldest where there are too many.
fn forget(table: &mut HashMap<u32, Arc<Process>>) {
    let ended = |process: &Arc<Process>| process.spool.end().map(|(_, when)| when);
    let mut old: Vec<_> = table.iter().filter_map(|(pid, process)| Some((ended(process)?, *pid))).collect();
    old.sort_unstable_by(|one, other| other.cmp(one));
    let mut kept = 0;
    for (index, (when, pid)) in old.into_iter().enumerate() {
        kept += table.get(&pid).map_or(0, |process| process.spool.kept());
        if index >= REMEMBERED_COUNT || kept > REMEMBERED_BYTES || when.elapsed() > REMEMBERED {
            table.remove(&pid);
        }
    }
}

impl Process {
    fn is_running(&self) -> bool {
        self.spool.end().is_none()
    }

    /// Its end is told, and nothing more goes in.
    fn end(&self, end: End) {
        self.spool.close(end);
        self.input.close();
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
struct OurEnds {
    input: Input,
    output: Output,
}

/// The process's ends.
struct TheirEnds {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn connect(streams: Streams, user: &User) -> Result<(OurEnds, TheirEnds), StartError> {
    match streams {
        Streams::Output => pipes(Input::none(), null()),
        Streams::Pipes => {
            let (read, write) = pipe().map_err(StartError::Streams)?;
            pipes(Input::new(Channel::Stdin, write).map_err(StartError::Streams)?, Ok(read))
        }
        Streams::Terminal(size) => {
            let (ours, theirs) = pty::open(size, user).map_err(StartError::Terminal)?;
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(StartError::Streams);
            let theirs = TheirEnds { stdin: copy(&theirs)?, stdout: copy(&theirs)?, stderr: theirs };
            let first = Source::terminal(copy(&ours)?).map_err(StartError::Streams)?;
            let output = Output { first, first_kind: Kind::Terminal, stderr: Source::none() };
            let input = Input::new(Channel::Terminal, ours).map_err(StartError::Streams)?;
            Ok((OurEnds { input, output }, theirs))
        }
    }
}

fn pipes(input: Input, theirs: io::Result<OwnedFd>) -> Result<(OurEnds, TheirEnds), StartError> {
    let (stdout, child_stdout) = pipe().map_err(StartError::Streams)?;
    let (stderr, child_stderr) = pipe().map_err(StartError::Streams)?;
    let stdin = theirs.map_err(StartError::Streams)?;
    let theirs = TheirEnds { stdin, stdout: child_stdout, stderr: child_stderr };
    let output = Output { first: Source::pipe(stdout), first_kind: Kind::Stdout, stderr: Source::pipe(stderr) };
    Ok((OurEnds { input, output }, theirs))
}

fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The reading end and the writing end.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}
