//! The machine under a host agent: what it runs virtual machines with, what room it has, and, where it is a simulated
//! one, the places where it may fail.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use vmm::Vmm;

use crate::cgroup::Cgroups;
use crate::jail::LackingLayer;
use crate::net::Networks;

/// All that a host agent does not do by itself.
#[derive(Clone)]
pub struct Machine {
    /// What starts virtual machines.
    pub vmm: Arc<dyn Vmm>,
    /// What connects them.
    pub network: Arc<dyn Networks>,
    /// What limits their monitors.
    pub cgroups: Cgroups,
    /// Layers of the jail that monitors lack there.
    pub lacking_layers: Vec<LackingLayer>,
    /// Everything else.
    pub surroundings: Arc<dyn Surroundings>,
}

/// What is said of a machine, and what happens to whoever works on it.
pub trait Surroundings: fmt::Debug + Send + Sync {
    /// Free space in MiB of the file system that `directory` is on.
    fn free_disk_mb(&self, directory: &Path) -> io::Result<u64>;

    /// Memory in MiB that may be taken without harm; none where the machine does not say.
    fn available_memory_mb(&self) -> Option<u64>;

    /// Told that the host agent has come here. On a real machine nothing comes of it; a simulated one may end the host
    /// agent.
    fn reached(&self, at: Failpoint);

    /// The same where something is about to be written: a simulated machine may also say that its disk is full.
    fn may_write(&self, at: Failpoint) -> io::Result<()>;
}

/// A place between two things that the disk must show to be whole, done or not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failpoint {
    /// A sandbox's directory is there, and nothing in it.
    DirectoryMade,
    /// Its record is there.
    RecordWritten,
    /// Before the state of devices is written.
    StateUnsaved,
    /// Before the memory of a sandbox that is being paused is written.
    MemoryUnwritten,
    /// It is written, under another name.
    MemoryWritten,
    /// It has its name, and nothing says that the sandbox is paused.
    PauseUnpublished,
    /// The sandbox is paused, and its monitor is there.
    PausePublished,
    /// All that a stop keeps is durable, and nothing says that the sandbox is stopped.
    StopUnpublished,
    /// The sandbox is stopped, and what it was otherwise is there.
    StopPublished,
    /// A paused sandbox's monitor is loaded, and its capture can still be used.
    ResumeUnspent,
    /// The capture is spent.
    ResumeSpent,
    /// All of a snapshot is written, and nobody sees it.
    SnapshotUnpublished,
    /// A snapshot can be found.
    SnapshotPublished,
}

impl Failpoint {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::DirectoryMade,
        Self::RecordWritten,
        Self::StateUnsaved,
        Self::MemoryUnwritten,
        Self::MemoryWritten,
        Self::PauseUnpublished,
        Self::PausePublished,
        Self::StopUnpublished,
        Self::StopPublished,
        Self::ResumeUnspent,
        Self::ResumeSpent,
        Self::SnapshotUnpublished,
        Self::SnapshotPublished,
    ];
}

/// The machine that this program runs on.
#[derive(Debug, Clone, Copy)]
pub struct ThisMachine;

impl Surroundings for ThisMachine {
    fn free_disk_mb(&self, directory: &Path) -> io::Result<u64> {
        let file_system = rustix::fs::statvfs(directory)?;
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize) >> 20)
    }

    fn available_memory_mb(&self) -> Option<u64> {
        crate::sandbox::Meminfo::read().available_mb
    }

    fn reached(&self, _at: Failpoint) {}

    fn may_write(&self, _at: Failpoint) -> io::Result<()> {
        Ok(())
    }
}

/// The id of the machine's present boot: of what an earlier one ran, only files are left, and its process ids mean nothing.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
