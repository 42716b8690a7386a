//! The jail around every virtual machine monitor: its own uid and gid, mount, PID, network, IPC and UTS namespaces, a
//! file system that holds only the monitor's own files, no capabilities, `no_new_privs`, its own session, resource limits,
//! a group of its own with limits on memory, processors, threads and the disk, and Landlock; the monitor adds its seccomp filter.
//!
//! A monitor is started by a helper process (this binary again, see [`inside`]): namespaces and credentials cannot be
//! changed safely in a process with threads. The two speak over a socket pair, so that the monitor's identity is on
//! disk before its first instruction and nothing can be started that cannot be found again:
//!
//! ```text
//!  host agent                       helper                          monitor-to-be
//!      │── order + descriptors ───────▶│ namespaces, mounts
//!      │                               │── fork ───────────────────────▶│ waits
//!      │◀──────────── pid ─────────────┤ (ends)                         │
//!      │ identity written, synced                                       │
//!      │── go ─────────────────────────────────────────────────────────▶│ drops rights, exec
//!      │◀── end of file (exec), or what failed ─────────────────────────┘
//!      │ it is in its groups
//! ```
//!
//! A sandbox's resolver and proxy ([`crate::egress`]) are jailed the same way, but in the sandbox's network namespace, and
//! without becoming another program. Knows nothing of QEMU or of what a sandbox is.

pub mod inside;
mod landlock;
mod layer;
mod order;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rustix::io::retry_on_intr;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};
use vmm::{LaunchError, Launched, Launcher, ProcessIdentity, Program, VmmProcess};

pub use layer::{LackingLayer, Layer, UnknownLayer, lacking};
pub use order::ResourceLimits;

use crate::cgroup::Cgroup;
use crate::machine;
use order::{Order, Report};

/// How long the helper may take for a step. It takes milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where memory runs out on the host, monitors go before anything that keeps others going.
const OOM_SCORE_ADJ: &str = "500";

/// The hidden argument by which the `sandpiper` binary knows that it is to become the helper: it must then call
/// [`inside::enter`] before it starts any thread.
pub const HELPER_ARGUMENT: &str = "jail-helper";

/// Starts one sandbox's monitor.
#[derive(Debug, Clone)]
pub struct Jail {
    /// uid and gid of the monitor: nobody else's, and owner of nothing.
    pub uid: u32,
    /// The file that the monitor's identity is written to.
    pub identity_file: PathBuf,
    /// What it is in before it is asked for anything.
    pub cgroup: Cgroup,
    /// What the kernel lets it take as a process.
    pub limits: ResourceLimits,
    /// Whether the kernel has Landlock, or that is to be done without.
    pub landlock: Landlock,
}

/// Whether a jail has this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Landlock {
    /// Nothing starts without it.
    Required,
    /// The machine has none, and was allowed to do without.
    Absent,
}

impl Launcher for Jail {
    fn launch(&self, program: Program) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        let (order, descriptors) = Order::program(self, program);
        Box::pin(self.start(order, descriptors))
    }
}

impl Jail {
    /// Starts a sandbox's resolver and proxy, which connects to these ports, in the sandbox's network namespace, with the
    /// descriptors that it is to have. It outlives us.
    pub(crate) async fn launch_egress(
        &self,
        ports: Vec<u16>,
        root: PathBuf,
        namespace: OwnedFd,
        descriptors: Vec<OwnedFd>,
    ) -> Result<VmmProcess, LaunchError> {
        let null = std::fs::File::open("/dev/null").map_err(failed("open /dev/null"))?;
        let descriptors = [OwnedFd::from(null), namespace].into_iter().chain(descriptors).collect();
        Ok(self.start(Order::egress(self, ports, root), descriptors).await?.process)
    }

    async fn start(&self, order: Order, descriptors: Vec<OwnedFd>) -> Result<Launched, LaunchError> {
        let (jail, begun) = (self.clone(), Instant::now());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The steps block, and once begun they must come to their end even when nobody waits any more.
        tokio::task::spawn_blocking(move || {
            if let Err(Ok(launched)) = sender.send(jail.start_blocking(&order, descriptors, begun)) {
                tokio::spawn(async move { launched.process.kill().await });
            }
        });
        let stopped = |_| failed("start the jail")(io::Error::other("the server is stopping"));
        receiver.await.map_err(stopped)?
    }
}

fn failed(step: impl Into<String>) -> impl FnOnce(io::Error) -> LaunchError {
    let step = step.into();
    move |source| LaunchError { step, source }
}

impl Jail {
    fn start_blocking(
        &self,
        order: &Order,
        descriptors: Vec<OwnedFd>,
        begun: Instant,
    ) -> Result<Launched, LaunchError> {
        self.cgroup.make().map_err(failed("make the jail's control groups"))?;
        let (ours, theirs) = channel().map_err(failed("make the jail's channel"))?;
        let mut helper = std::process::Command::new("/proc/self/exe")
            .arg(HELPER_ARGUMENT)
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start the jail's helper"))?;
        let result = self.converse(&ours, order, descriptors);
        // Lets everyone at the other end stop who still waits for an answer.
        drop(ours);
        helper.wait().map_err(failed("wait for the jail's helper"))?;
        let (process, executes) = result?;
        let (before, after) = (executes.duration_since(begun), executes.elapsed());
        Ok(Launched { process, before, after })
    }

    /// Puts the process where nothing that it does can hurt others. The kernel lets a process change its group only when all
    /// processors have come to rest once, which takes some twenty milliseconds.
    fn confine(&self, pid: i32) -> Result<(), LaunchError> {
        self.cgroup.enter(pid).map_err(failed("enter the jail's control groups"))?;
        let score = format!("/proc/{pid}/oom_score_adj");
        std::fs::write(&score, OOM_SCORE_ADJ).map_err(failed(format!("write {score}")))
    }

    /// Returns the process, and since when it executes what it is for.
    fn converse(
        &self,
        channel: &OwnedFd,
        order: &Order,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(VmmProcess, Instant), LaunchError> {
        send_order(channel, order, &descriptors).map_err(failed("hand over to the jail's helper"))?;
        drop(descriptors);
        let pid = match receive_report(channel).map_err(failed("hear from the jail's helper"))? {
            Some(Report::Forked { pid }) => pid,
            Some(Report::Failed { step, error }) => return Err(failed(step)(io::Error::from_raw_os_error(error))),
            None => return Err(failed("hear from the jail's helper")(io::Error::from(io::ErrorKind::UnexpectedEof))),
        };
        let identity = ProcessIdentity::of(pid).map_err(failed("identify the jailed process"))?;
        let process = VmmProcess::open(identity).map_err(failed("identify the jailed process"))?;
        let started = std::thread::scope(|scope| {
            // Meanwhile it begins to start, by its own code and without having been asked for anything.
            let confined = scope.spawn(|| self.confine(pid));
            let released = record(&self.identity_file, identity)
                .map_err(failed(format!("write {}", self.identity_file.display())))
                .and_then(|()| release(channel))
                .map(|()| Instant::now());
            let panicked = |_| Err(failed("enter the jail's control groups")(io::ErrorKind::Other.into()));
            released.and_then(|executes| confined.join().unwrap_or_else(panicked).map(|()| executes))
        });
        match started {
            Ok(executes) => Ok((process, executes)),
            Err(error) => {
                // Whoever hears of the error may rely on it that no process is left.
                tokio::runtime::Handle::current().block_on(process.kill());
                Err(error)
            }
        }
    }
}

/// Lets the process go on to exec, and hears of it.
fn release(channel: &OwnedFd) -> Result<(), LaunchError> {
    rustix::net::send(channel, b"go", SendFlags::NOSIGNAL)
        .map_err(|error| failed("release the jailed process")(error.into()))?;
    match receive_report(channel).map_err(failed("hear from the jailed process"))? {
        None => Ok(()),
        Some(Report::Failed { step, error }) => Err(failed(step)(io::Error::from_raw_os_error(error))),
        Some(Report::Forked { .. }) => Err(failed("hear from the jailed process")(io::ErrorKind::InvalidData.into())),
    }
}

/// A pair of sockets that keep message boundaries. Ours gives up after [`DEADLINE`].
fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Recv, Some(DEADLINE))?;
    Ok((ours, theirs))
}

fn send_order(channel: &OwnedFd, order: &Order, descriptors: &[OwnedFd]) -> io::Result<()> {
    let message = serde_json::to_vec(order)?;
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(order::MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::from(io::ErrorKind::ArgumentListTooLong));
    }
    rustix::net::sendmsg(channel, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next report, or `None` when nobody is left to send one.
fn receive_report(channel: &OwnedFd) -> io::Result<Option<Report>> {
    let mut buffer = [0; 4096];
    // The kernel does not go on by itself after a signal with what has a time limit.
    let (count, _) = retry_on_intr(|| rustix::net::recv(channel, &mut buffer[..], RecvFlags::empty()))?;
    if count == 0 { Ok(None) } else { Ok(Some(serde_json::from_slice(&buffer[..count])?)) }
}

/// What an identity file says.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    #[serde(flatten)]
    process: ProcessIdentity,
    /// The boot of the machine in which that means a process. Earlier versions did not say.
    machine_boot: Option<String>,
}

/// On disk when this returns, so that the process is found even after a crash.
fn record(file: &Path, process: ProcessIdentity) -> io::Result<()> {
    let mut text = serde_json::to_vec(&Recorded { process, machine_boot: Some(machine::boot_id()?) })?;
    text.push(b'\n');
    crate::files::write_durably(file, &text)
}

/// The process that an identity file names, unless that was before the machine was started again.
pub(crate) fn recorded(file: &Path) -> Option<ProcessIdentity> {
    let recorded: Recorded = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let is_of_this_boot = recorded.machine_boot.is_none_or(|boot| machine::boot_id().is_ok_and(|now| now == boot));
    is_of_this_boot.then_some(recorded.process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jail() -> Jail {
        let limits = crate::cgroup::CgroupLimits { vcpus: 1, memory_mb: 64, disk: None };
        Jail {
            uid: 65_534,
            identity_file: PathBuf::new(),
            cgroup: crate::cgroup::Cgroups::none().of(crate::net::Slot::new(1).unwrap(), limits),
            limits: ResourceLimits { threads: 8, file_bytes: 1 << 20 },
            landlock: Landlock::Absent,
        }
    }

    fn program() -> Program {
        Program {
            root: PathBuf::from("/"),
            path: PathBuf::from("/bin/true"),
            arguments: Vec::new(),
            binds: Vec::new(),
            devices: Vec::new(),
            descriptors: Vec::new(),
            stderr: std::fs::File::open("/dev/null").unwrap().into(),
        }
    }

    fn send(channel: &OwnedFd, report: &Report) {
        let message = serde_json::to_vec(report).unwrap();
        rustix::net::send(channel, &message, SendFlags::NOSIGNAL).unwrap();
    }

    /// Lets a launch speak with a helper that has forked a process and then ends the conversation with `last`, if the
    /// conversation comes that far. Returns the launch's error and the process.
    async fn launch(identity_file: PathBuf, last: Report) -> (LaunchError, ProcessIdentity) {
        #[allow(clippy::zombie_processes, reason = "the launch reaps it")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        let (ours, theirs) = channel().unwrap();
        send(&theirs, &Report::Forked { pid: identity.pid });
        send(&theirs, &last);
        let jail = Jail { uid: 65_534, identity_file, ..jail() };
        let result = tokio::task::spawn_blocking(move || {
            let (order, descriptors) = Order::program(&jail, program());
            jail.converse(&ours, &order, descriptors)
        })
        .await
        .unwrap();
        drop(theirs);
        (result.expect_err("it cannot have started"), identity)
    }

    #[test]
    fn an_identity_means_a_process_only_in_the_boot_of_the_machine_in_which_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vmm.json");
        let process = ProcessIdentity { pid: 7, start_ticks: 8 };
        record(&file, process).unwrap();
        assert_eq!(recorded(&file), Some(process));
        std::fs::write(&file, r#"{"pid":7,"start_ticks":8}"#).unwrap();
        assert_eq!(recorded(&file), Some(process), "as an earlier version wrote it");
        std::fs::write(&file, r#"{"pid":7,"start_ticks":8,"machine_boot":"another"}"#).unwrap();
        assert_eq!(recorded(&file), None);
    }

    #[tokio::test]
    async fn a_process_whose_identity_cannot_be_written_is_gone_when_the_error_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let nowhere = directory.path().join("absent").join("vmm.json");
        let (error, identity) = launch(nowhere, Report::Failed { step: "unread".to_owned(), error: 0 }).await;
        assert!(error.step.starts_with("write "), "{error:?}");
        assert!(ProcessIdentity::of(identity.pid).is_err(), "the process is gone, and reaped");
    }

    #[tokio::test]
    async fn a_process_that_fails_before_its_program_runs_is_gone_when_the_error_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let failed = Report::Failed { step: "enter the jail".to_owned(), error: 1 };
        let (error, identity) = launch(directory.path().join("vmm.json"), failed).await;
        assert_eq!(error.step, "enter the jail");
        assert!(ProcessIdentity::of(identity.pid).is_err(), "the process is gone, and reaped");
    }
}
