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
    pub work: Work,
    pub network: NetworkNamespace,
    pub binds: Vec<Bind>,
    pub devices: Vec<Device>,
    pub limits: ResourceLimits,
    pub landlock: Landlock,
}

/// What the jailed process does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// It becomes a program.
    Program { path: PathBuf, arguments: Vec<OsString> },
    /// It stays what it is, and is a sandbox's resolver and proxy, which connects to these ports.
    Egress { ports: Vec<u16> },
}

/// Where the jailed process's sockets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NetworkNamespace {
    /// In a namespace of its own with nothing in it.
    Empty,
    /// In the one whose descriptor comes after that of standard error.
    Given,
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
    /// A program, in a namespace without a network.
    pub fn program(jail: &Jail, program: Program) -> (Self, Vec<OwnedFd>) {
        let Program { root, path, arguments, binds, devices, descriptors, stderr } = program;
        let work = Work::Program { path, arguments };
        let descriptors = std::iter::once(stderr).chain(descriptors).collect();
        (Self { binds, devices, ..Self::new(jail, root, work, NetworkNamespace::Empty) }, descriptors)
    }

    /// A sandbox's resolver and proxy, in the sandbox's own namespace.
    pub fn egress(jail: &Jail, ports: Vec<u16>, root: PathBuf) -> Self {
        Self::new(jail, root, Work::Egress { ports }, NetworkNamespace::Given)
    }

    fn new(jail: &Jail, root: PathBuf, work: Work, network: NetworkNamespace) -> Self {
        let (uid, limits, landlock) = (jail.uid, jail.limits, jail.landlock);
        Self { uid, root, work, network, binds: Vec::new(), devices: Vec::new(), limits, landlock }
    }
}
