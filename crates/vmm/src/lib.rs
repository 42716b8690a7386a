//! The seam to virtual machine monitors: the trait [`Vmm`], and [`qemu`], the driver that runs everywhere.
//!
//! A driver knows how to describe a virtual machine to its monitor and how to speak to it. It does not know how the
//! monitor's process is jailed (that is the [`Launcher`] it is given), what a sandbox, a template or a network is, or
//! who waits for the guest to answer.

mod accelerator;
mod launch;
mod log;
pub mod memory;
mod platform;
pub mod qemu;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use model::{DiskMb, Shape};

pub use accelerator::{Accelerator, AcceleratorChoice, AcceleratorMode, ForcedKvmUnusable, choose, kvm_obstacle};
pub use launch::{
    Bind, BindAccess, Device, LaunchError, Launched, Launcher, Process, ProcessIdentity, Program, VmmProcess,
};
pub use log::{BoundedLog, LOG_LIMIT};
pub use platform::{Platform, PlatformMismatch};

/// A virtual machine monitor.
pub trait Vmm: Send + Sync {
    /// What it is and what it runs guests on.
    fn info(&self) -> VmmInfo;

    /// Starts a monitor for one virtual machine and lets its vCPUs run. Legal at any time, any number of times at
    /// once. Returns when the guest executes, which says nothing of what the guest does. After an error no process
    /// is left.
    fn boot<'a>(&'a self, spec: BootSpec, launcher: &'a dyn Launcher) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>>;

    /// Starts a monitor for a virtual machine whose device state was saved and whose memory is at hand, and loads it.
    /// Its vCPUs do not run when this returns: [`Vm::resume`] lets them, and until then neither memory nor disk has
    /// changed. A state that was saved on another platform is refused before a monitor is started. After an error no
    /// process is left.
    fn restore<'a>(
        &'a self,
        spec: RestoreSpec,
        launcher: &'a dyn Launcher,
    ) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>>;

    /// Takes hold of a monitor that this driver started when it was part of another process, if it still runs.
    fn find(&self, identity: ProcessIdentity) -> std::io::Result<VmmProcess>;

    /// Makes an empty overlay of that size. It names no backing file: a virtual machine is told which it is, so that a
    /// header that a guest has tampered with leads nowhere.
    fn make_overlay<'a>(&'a self, path: &'a Path, disk: DiskMb) -> BoxFuture<'a, Result<(), OverlayError>>;

    /// Takes hold of a monitor that an earlier run of this program started, and that runs on: its process, its control
    /// socket, its console and its log. Its virtual machine stays as it is, but a merge of layers that was under way is
    /// given up. Legal once whoever drove it before is gone. After an error the process is what it was before.
    fn adopt(&self, spec: AdoptSpec) -> BoxFuture<'_, Result<Arc<dyn Vm>, AdoptError>>;

    /// What the next boot is on: a state that is saved there can be loaded only on the same.
    fn platform(&self) -> Platform;

    /// Removes what is kept of earlier monitors that no state needs which was saved on one of these platforms.
    fn prune(&self, needed: &[Platform]) -> std::io::Result<()>;

    /// Tells the driver that a guest has answered: what it runs on works.
    fn proven(&self);

    /// Tells the driver that a guest did not start, or never answered, on `accelerator`. Returns whether the next boot
    /// will be on something else: only where hardware virtualisation may be given up and no guest ever answered on it.
    fn give_up(&self, accelerator: Accelerator) -> bool;

    /// Whether the next boot is the proof that hardware virtualisation works here, and so may fail for lack of it.
    fn is_unproven(&self) -> bool;
}

/// One virtual machine. Its process does not end with ours.
pub trait Vm: Send + Sync {
    /// The monitor's process.
    fn process(&self) -> &VmmProcess;

    /// What the monitor took from its start to its first answer.
    fn first_answer(&self) -> Duration;

    /// How much later that came because of the launcher, at most. Nothing where an earlier run started it.
    fn launch_delay(&self) -> Duration;

    /// Stops the vCPUs. Legal while they run.
    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Lets the vCPUs go on. Legal while they are stopped.
    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Writes the state of all devices and vCPUs, without memory and disk, and makes it durable. Legal while the vCPUs
    /// are stopped; changes nothing, so the virtual machine may go on afterwards.
    fn save_state(&self, to: OwnedFd) -> BoxFuture<'_, Result<(), VmError>>;

    /// Copies into the overlay what the frozen layers under it hold, so that only the template's image is left under it.
    /// Legal in every state; a guest that runs goes on meanwhile. After an error the layers are needed as before.
    fn merge_layers(&self) -> BoxFuture<'_, Result<(), VmError>>;

    /// Ends the monitor at once and returns when its process is gone. Legal in every state, and idempotent. What the
    /// guest had not written to its disk is lost.
    fn kill(&self) -> BoxFuture<'_, ()>;

    /// The last lines that the guest's console and the monitor wrote. Hostile bytes, bounded and made printable.
    fn last_words(&self) -> String;
}

/// What a monitor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmInfo {
    /// Its name and version, as shown to users.
    pub version: String,
    /// What its guests execute on.
    pub accelerator: Accelerator,
}

/// What a virtual machine is made of. Files come as descriptors wherever the monitor can take them.
#[derive(Debug)]
pub struct Machine {
    /// vCPUs and memory; the disk's size is the overlay's.
    pub shape: Shape,
    /// Where the guest's memory is.
    pub memory: Memory,
    /// The template's raw image, opened for reading.
    pub base_image: OwnedFd,
    /// Frozen qcow2 overlays over it, the lowest first, opened for reading.
    pub layers: Vec<OwnedFd>,
    /// A qcow2 overlay, opened for reading and writing. The backing file that its header names is never followed.
    pub overlay: OwnedFd,
    /// A tap device with virtio headers.
    pub tap: OwnedFd,
    /// The guest's MAC address on it.
    pub mac: [u8; 6],
    /// An existing directory of the caller's, for the monitor's sockets.
    pub directory: PathBuf,
    /// What its guest's requests to the disk are held to.
    pub disk_limits: DiskLimits,
}

/// What a guest may ask of its disk, reading and writing together. What is more waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// MiB a second.
    pub megabytes_per_second: u32,
    /// Requests a second.
    pub operations_per_second: u32,
}

impl Default for DiskLimits {
    /// More than one guest needs, and less than a disk of these days gives.
    fn default() -> Self {
        Self { megabytes_per_second: 400, operations_per_second: 20_000 }
    }
}

impl DiskLimits {
    /// Bytes a second.
    pub fn bytes_per_second(&self) -> u64 {
        u64::from(self.megabytes_per_second) << 20
    }
}

/// A file that holds the guest's memory. It is as large as the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// The sandbox's own: what the guest writes is in the file. The monitor's group may write it.
    Own(PathBuf),
    /// Frozen, and read by others too: what the guest writes is the monitor's alone and ends with it.
    Frozen(PathBuf),
}

/// What a virtual machine boots from.
#[derive(Debug)]
pub struct BootSpec {
    /// What it is made of.
    pub machine: Machine,
    /// A Linux kernel, readable by everyone.
    pub kernel: PathBuf,
    /// Its initramfs, readable by everyone.
    pub initramfs: PathBuf,
}

/// What a virtual machine goes on from.
#[derive(Debug)]
pub struct RestoreSpec {
    /// What it is made of: the same as when its state was saved.
    pub machine: Machine,
    /// What [`Vm::save_state`] wrote, opened for reading only.
    pub state: OwnedFd,
    /// On what it was saved.
    pub platform: Platform,
}

/// What is known of a virtual machine that an earlier run started.
#[derive(Debug)]
pub struct AdoptSpec {
    /// Its monitor's process.
    pub process: ProcessIdentity,
    /// What it runs on.
    pub platform: Platform,
    /// The directory with its monitor's sockets.
    pub directory: PathBuf,
    /// How many frozen overlays it was started with.
    pub layer_count: usize,
    /// What its monitor took from its start to its first answer.
    pub first_answer: Duration,
}

/// Why a virtual machine was not adopted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// Its monitor has ended.
    #[error("the virtual machine monitor has ended")]
    Ended,
    /// The process executes something else.
    #[error("process {pid} is no virtual machine monitor of ours")]
    Other {
        /// Its id.
        pid: i32,
    },
    /// The monitor is there and does not do as told.
    #[error("take hold of the virtual machine monitor")]
    Control(#[from] VmError),
}

/// Why a virtual machine did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The state to load was saved on something else.
    #[error(transparent)]
    Mismatch(#[from] PlatformMismatch),
    /// Before the monitor existed.
    #[error("prepare {what} of the virtual machine")]
    Prepare {
        /// The thing that could not be made.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The monitor's process did not start.
    #[error("start the virtual machine monitor")]
    Launch(#[from] LaunchError),
    /// It ended, or closed its control socket, before the guest ran.
    #[error("the virtual machine monitor ended while starting:\n{last_words}")]
    Ended {
        /// What it had said.
        last_words: String,
    },
    /// It refused.
    #[error("the virtual machine monitor refused to start the guest:\n{last_words}")]
    Refused {
        /// What it had said.
        last_words: String,
        /// The command it refused.
        #[source]
        source: VmError,
    },
}

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OverlayError(pub String);

/// Why a monitor did not do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// Its control connection is closed: the process has ended or is about to.
    #[error("the virtual machine monitor is gone (while doing {command})")]
    Gone {
        /// What it was asked to do.
        command: &'static str,
    },
    /// No answer in time.
    #[error("the virtual machine monitor did not answer {command} in time")]
    Silent {
        /// What it was asked to do.
        command: &'static str,
    },
    /// An answer that says no.
    #[error("the virtual machine monitor refused {command}: {reason}")]
    Refused {
        /// What it was asked to do.
        command: &'static str,
        /// Its words.
        reason: String,
    },
}
