//! What host agent and helper say to each other.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vmm::{Bind, Device, Program};

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
    pub fn new(uid: u32, program: Program) -> (Self, Vec<OwnedFd>) {
        let Program { root, path, arguments, binds, devices, descriptors, stderr } = program;
        let descriptors = std::iter::once(stderr).chain(descriptors).collect();
        (Self { uid, root, path, arguments, binds, devices }, descriptors)
    }
}
