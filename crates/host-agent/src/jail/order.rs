//! What host agent and helper say to each other.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm::{Bind, Device, Program};

use super::{Jail, Landlock};

/// The most descriptors that one message carries.
pub(super) const MOST_DESCRIPTORS: usize = 32;

/// What to start. The descriptors travel beside it: standard error first, then those that are inherited.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub uid: u32,
    pub root: PathBuf,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub binds: Vec<Bind>,
    pub devices: Vec<Device>,
    pub limits: ResourceLimits,
    pub landlock: Landlock,
}

/// What the kernel lets a monitor take as a process, beside what its group may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Processes and threads of its uid.
    pub threads: u64,
    /// Bytes of any file that it writes.
    pub file_bytes: u64,
}

/// What the other side says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The jailed process exists and waits.
    Forked {
        /// As the host sees it.
        pid: i32,
    },
    /// It will not be.
    Failed {
        /// What was being done, and to what.
        step: String,
        /// The system's error number.
        error: i32,
    },
}

impl Order {
    pub fn new(jail: &Jail, program: Program) -> (Self, Vec<OwnedFd>) {
        let Program { root, path, arguments, binds, devices, descriptors, stderr } = program;
        let descriptors = std::iter::once(stderr).chain(descriptors).collect();
        let (uid, limits, landlock) = (jail.uid, jail.limits, jail.landlock);
        (Self { uid, root, path, arguments, binds, devices, limits, landlock }, descriptors)
    }
}
