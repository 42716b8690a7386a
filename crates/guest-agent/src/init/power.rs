//! The end of the system. PID 1 never hangs and never just ends: whatever happens, the machine is switched off, which
//! is what the host waits for.
#![allow(unsafe_code)]

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rustix::mount::{MountFlags, mount_remount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};
use tokio::time::timeout;

use crate::log;
use crate::process::reaper::Reaper;

/// How long processes have to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
/// How long killed processes have to be gone.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// Does `work`, which is all that this system is for, and switches the machine off.
pub fn power_off_after(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> ! {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::line(format_args!("fatal: {}", log::chain(&*error))),
        Err(_) => log::line("fatal: the guest agent panicked"),
    }
    rustix::fs::sync();
    // Best effort: a disk that is busy has at least been synced.
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
    // The end of PID 1 makes the kernel panic, which its command line turns into a restart.
    std::process::abort()
}

/// Ends all processes of the sandbox but this one, politely first.
pub async fn end_processes(reaper: &Reaper) {
    for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, KILL_GRACE)] {
        signal_everybody(signal);
        if timeout(grace, reaper.childless()).await.is_ok() {
            return;
        }
    }
}

fn signal_everybody(signal: Signal) {
    // SAFETY: sends a signal. From PID 1, -1 means all processes but itself.
    unsafe { libc::kill(-1, signal.as_raw()) };
}
