//! What a driver hands over so that its monitor is started, and what it gets back. How the process is confined is the
//! launcher's business.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::memory;

/// A program to start in a jail.
#[derive(Debug)]
pub struct Program {
    /// A directory of the host that is the program's whole, read-only file system.
    pub root: PathBuf,
    /// The program's path inside it.
    pub path: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// Files of the host that appear inside, over existing empty files.
    pub binds: Vec<Bind>,
    /// Devices that it may open.
    pub devices: Vec<Device>,
    /// Descriptors that it inherits; the first has the number [`Program::FIRST_DESCRIPTOR`], and so on.
    pub descriptors: Vec<OwnedFd>,
    /// Where its standard output and error go.
    pub stderr: OwnedFd,
}

impl Program {
    /// The number of the first descriptor passed on: above all that a launcher has open itself.
    pub const FIRST_DESCRIPTOR: i32 = 64;
}

/// A host file shown inside the jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where it appears: an absolute path inside the program's root.
    pub inside: PathBuf,
    /// What may be done to it there, beyond what its permissions allow.
    pub access: BindAccess,
}

/// What a program may do to a file that is shown to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BindAccess {
    /// Read it, and nothing else whatever its permissions.
    ReadOnly,
    /// Write it too: the launcher lets the program's group do so.
    Writable,
}

/// A device that a program may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// `/dev/kvm`
    Kvm,
}

/// Starts programs in a jail.
pub trait Launcher: Send + Sync {
    /// Starts the program as its own session. It outlives us. Its identity is on disk before its first instruction,
    /// so that it can be found again whatever happens to us. After an error no process is left.
    fn launch(&self, program: Program) -> BoxFuture<'_, Result<Launched, LaunchError>>;
}

/// A program that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its process.
    pub process: VmmProcess,
    /// What the launcher took before its first instruction.
    pub before: Duration,
    /// What the launcher took from there until it was done.
    pub after: Duration,
}

/// Why a program did not start.
#[derive(Debug, thiserror::Error)]
#[error("{step}")]
pub struct LaunchError {
    /// What was being done, and to what.
    pub step: String,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Which process a pid means: pids are used again, a pid and its start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// The process id, as the host sees it.
    pub pid: i32,
    /// Clock ticks between the machine's boot and the process's start (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// The identity that a pid has now.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name, in brackets, may hold anything; the fields begin after the last bracket, with number 3.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let start_ticks = fields.split_whitespace().nth(19).and_then(|field| field.parse().ok());
        let start_ticks = start_ticks.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has no start time")))?;
        Ok(Self { pid, start_ticks })
    }
}

/// A monitor's process, for those who follow it.
pub trait Process: fmt::Debug + Send + Sync {
    /// Which process it is.
    fn identity(&self) -> ProcessIdentity;

    /// By which number `/proc` knows it; none where it is not the operating system's.
    fn pid(&self) -> Option<i32>;

    /// Returns when it has ended.
    fn ended(&self) -> BoxFuture<'_, ()>;

    /// Ends it and returns when it is gone.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// Bytes of memory that are its alone.
    fn private_bytes(&self) -> io::Result<u64>;

    /// Writes over `to`, a copy of `base`, what it has changed that maps `base` privately. It must be stopped.
    fn write_changes(&self, base: &File, to: &File) -> io::Result<()>;
}

/// A running monitor. Clones mean the same process.
#[derive(Debug, Clone)]
pub struct VmmProcess(Arc<dyn Process>);

impl VmmProcess {
    /// One that is not the operating system's.
    pub fn new(process: impl Process + 'static) -> Self {
        Self(Arc::new(process))
    }

    /// Takes hold of a process, if it is still the one meant.
    pub fn open(identity: ProcessIdentity) -> io::Result<Self> {
        SystemProcess::open(identity).map(Self::new)
    }

    /// Which process it is.
    pub fn identity(&self) -> ProcessIdentity {
        self.0.identity()
    }

    /// By which number `/proc` knows it; none where it is not the operating system's.
    pub fn pid(&self) -> Option<i32> {
        self.0.pid()
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) {
        self.0.ended().await;
    }

    /// Ends the process and returns when it is gone.
    pub async fn kill(&self) {
        self.0.kill().await;
    }

    /// Bytes of memory that are its alone.
    pub fn private_bytes(&self) -> io::Result<u64> {
        self.0.private_bytes()
    }

    /// Writes over `to`, a copy of `base`, what it has changed that maps `base` privately. It must be stopped.
    pub fn write_changes(&self, base: &File, to: &File) -> io::Result<()> {
        self.0.write_changes(base, to)
    }
}

/// A process of the operating system.
#[derive(Debug)]
struct SystemProcess {
    identity: ProcessIdentity,
    pidfd: AsyncFd<OwnedFd>,
}

impl SystemProcess {
    fn open(identity: ProcessIdentity) -> io::Result<Self> {
        let pid = Pid::from_raw(identity.pid).ok_or_else(|| io::Error::other("pid 0 is no process"))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // Only after the descriptor is held can the pid no longer come to mean another process.
        if ProcessIdentity::of(identity.pid)? != identity {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        #[expect(deprecated, reason = "its replacement is unsafe, and an OwnedFd keeps the promise that it asks for")]
        let pidfd = AsyncFd::new(pidfd)?;
        Ok(Self { identity, pidfd })
    }

    /// Also takes it out of the process table if it is our child.
    async fn wait(&self) {
        // The descriptor of a process becomes readable when it ends, and stays so. An error means it is gone already.
        let _ = self.pidfd.readable().await;
        // Fails where the process is not our child (adopted after a restart); its parent reaps it then.
        let _ =
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

impl Process for SystemProcess {
    fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    fn pid(&self) -> Option<i32> {
        Some(self.identity.pid)
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.wait())
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        // Fails only where the process has ended.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
        Box::pin(self.wait())
    }

    fn private_bytes(&self) -> io::Result<u64> {
        memory::private_bytes(self.identity)
    }

    fn write_changes(&self, base: &File, to: &File) -> io::Result<()> {
        memory::write_changes(self.identity, base, to).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_followed_to_its_end_and_reaped() {
        #[allow(clippy::zombie_processes, reason = "VmmProcess reaps it")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = VmmProcess::open(ProcessIdentity::of(pid).unwrap()).unwrap();
        process.kill().await;
        process.ended().await;
        assert!(ProcessIdentity::of(pid).is_err(), "no zombie is left");
    }

    #[tokio::test]
    async fn another_process_with_the_same_pid_is_not_taken_for_it() {
        let own = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let other = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        assert!(VmmProcess::open(other).is_err());
        assert!(VmmProcess::open(own).is_ok());
    }
}
