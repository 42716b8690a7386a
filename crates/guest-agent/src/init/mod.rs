//! What PID 1 does before and after it serves: from the kernel's initramfs to a running system on the root disk, and
//! back to power off. Knows nothing of what is served in between.

pub mod boot_id;
pub mod clock;
mod devices;
mod disk;
pub mod entropy;
pub mod freeze;
pub mod identity;
mod machine_id;
pub mod marks;
mod mounts;
pub mod network;
pub mod persona;
pub mod power;
pub mod trust;

use std::io;

use rustix::process::{Resource, Rlimit};

pub use self::power::power_off_after;
use crate::log;

/// The name of a sandbox that has not been told another.
const HOSTNAME: &str = "sandbox";
/// Open files of every process, the agent included: each of its clients' processes costs it three.
const OPEN_FILES: u64 = 65_536;
/// What every user may watch directories with, and how many of them. The kernel's own 128 of the first are fewer than the
/// watchers that the agent offers, and its programs watch too; the second it would derive from the memory.
const WATCHING: [(&str, &str); 2] =
    [("/proc/sys/fs/inotify/max_user_instances", "8192"), ("/proc/sys/fs/inotify/max_user_watches", "524288")];

/// Why there is no system to serve.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file system is not where it should be.
    #[error("mount {what} on {target}")]
    Mount {
        /// The file system.
        what: &'static str,
        /// The place.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No disk appeared.
    #[error("root disk {device} did not appear within {seconds} s")]
    NoDisk {
        /// Its device.
        device: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// The devices cannot be watched.
    #[error("watch {directory} for devices")]
    Watch {
        /// Where they appear.
        directory: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The root disk cannot become the root.
    #[error("make {target} the root")]
    SwitchRoot {
        /// Where the disk is.
        target: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// From the initramfs to the root disk, with all that programs expect of a system.
pub fn prepare() -> Result<(), InitError> {
    std::panic::set_hook(Box::new(|panic| log::line(format_args!("panic: {panic}"))));
    mounts::mount_kernel_file_systems()?;
    devices::load_modules();
    devices::wait_for_root_disk()?;
    mounts::switch_to_root_disk()?;
    mounts::mount_run_time_file_systems()?;
    best_effort("let the root file system fill its disk", disk::fill());
    best_effort("raise the limit of open files", raise_file_limit());
    best_effort("raise the limits of watching", raise_watch_limits());
    best_effort("keep clear of the OOM killer", std::fs::write("/proc/self/oom_score_adj", "-1000"));
    best_effort("set the host name", rustix::system::sethostname(HOSTNAME.as_bytes()).map_err(Into::into));
    best_effort("set up the network", network::set_up());
    Ok(())
}

fn raise_file_limit() -> io::Result<()> {
    let limit = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    Ok(rustix::process::setrlimit(Resource::Nofile, limit)?)
}

fn raise_watch_limits() -> io::Result<()> {
    WATCHING.iter().try_for_each(|(limit, number)| std::fs::write(limit, number))
}

/// A system that lacks this is still better than none.
fn best_effort(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        log::line(format_args!("cannot {what}: {error}"));
    }
}
