//! What can go wrong with a sandbox, one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use model::{DiskMb, Generation, IllegalTransition, SandboxId, SnapshotId, Status, TemplateName};

use super::ledger::Refusal;
use crate::guest::{GuestError, ReadyError, StartError};
use crate::net;
use crate::template::TemplateError;

/// Why a sandbox was not made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The id means another sandbox.
    #[error("sandbox {0} exists already, with other properties")]
    AlreadyExists(SandboxId),
    /// The server ends.
    #[error("the host agent is shutting down")]
    Closing,
    /// It was deleted while it was being made, or before that.
    #[error("the sandbox was deleted while it was being created")]
    Deleted,
    /// Its template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its disk would be smaller than what is on it.
    #[error("disk_mb must be at least {least} for the template {template}, or 0 for the default; got {wanted}")]
    DiskTooSmall {
        /// What it boots from.
        template: TemplateName,
        /// Of the template's image.
        least: DiskMb,
        /// Of the shape.
        wanted: DiskMb,
    },
    /// The host's disk is too full.
    #[error(
        "no disk space: {free_mb} MB are free in {}, {wanted_mb} MB are wanted, and {reserve_mb} MB are kept in reserve",
        directory.display()
    )]
    NoDiskSpace {
        /// The data directory.
        directory: PathBuf,
        /// Free there.
        free_mb: u64,
        /// What is to be written at once.
        wanted_mb: u64,
        /// Never used for sandboxes.
        reserve_mb: u64,
    },
    /// Host or owner have no room for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The host's memory is in use.
    #[error("no memory: the sandbox asks for {wanted_mb} MB and the host has {available_mb} MB available")]
    NoMemory {
        /// Of the shape.
        wanted_mb: u64,
        /// As the kernel tells.
        available_mb: u64,
    },
    /// A file or directory of the sandbox.
    #[error("{step} {}", path.display())]
    File {
        /// What was done to it.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// What it may reach.
    #[error("apply the sandbox's network policy")]
    Policy(#[source] super::NetworkError),
    /// Its way to names.
    #[error("let the sandbox find names")]
    Egress(#[from] crate::egress::EgressError),
    /// Its network.
    #[error("set up the sandbox's network")]
    Network(#[from] net::CreateError),
    /// Its disk.
    #[error("make the sandbox's overlay")]
    Overlay(#[from] vmm::OverlayError),
    /// Its virtual machine.
    #[error("boot the sandbox's virtual machine")]
    Boot(#[from] vmm::BootError),
    /// The virtual machine ended before its guest answered.
    #[error("the virtual machine ended before its guest answered:\n{last_words}")]
    Ended {
        /// Of the guest's console and of the monitor.
        last_words: String,
    },
    /// The guest never answered.
    #[error("{silence}; its last words:\n{last_words}")]
    Unanswered {
        /// How long it was waited for.
        silence: ReadyError,
        /// Of the guest's console and of the monitor.
        last_words: String,
    },
    /// The guest answered and would not take its identity.
    #[error("tell the guest who it is")]
    Introduce(#[source] GuestError),
    /// What its template starts in it does not become ready.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What was captured cannot be used, or could not be written.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// The guest would not stand still.
    #[error("freeze the guest")]
    Freeze(#[source] GuestError),
    /// The monitor would not give its state.
    #[error("capture the virtual machine")]
    Capture(#[source] vmm::VmError),
    /// The layers of its disk are too many and would not become one.
    #[error("merge the layers of the sandbox's disk")]
    Merge(#[source] vmm::VmError),
    /// The monitor would not let its guest go on.
    #[error("let the virtual machine go on")]
    Go(#[source] vmm::VmError),
    /// Something that was useless is in the way.
    #[error(transparent)]
    Left(DestroyError),
}

impl CreateError {
    /// Whether another way to make the sandbox would end in the same: neither a monitor nor what it loads is at fault.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Deleted | Self::Network(_) | Self::Egress(_))
    }
}

/// Why a sandbox was not paused or resumed. It is as it was, unless it is in error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransitionError {
    /// There is none of that id.
    #[error("sandbox not found: {0}")]
    NotFound(SandboxId),
    /// The server ends.
    #[error("the host agent is shutting down")]
    Closing,
    /// It was decided before something else that has been done since.
    #[error(
        "the call is of generation {asked} of the sandbox's record, and one of generation {known} has been carried out"
    )]
    Outdated {
        /// Of the call.
        asked: Generation,
        /// The latest that was carried out.
        known: Generation,
    },
    /// What it was told could not be written down.
    #[error("note the generation of the sandbox's record")]
    Note(#[source] io::Error),
    /// Its state forbids it.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// It did not work.
    #[error("{step} the sandbox")]
    Failed {
        /// What was wanted.
        step: &'static str,
        /// Why not.
        #[source]
        source: CreateError,
    },
}

/// Why a sandbox was not captured. It is as it was, unless it is in error, and nothing of a snapshot is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// There is no sandbox of that id.
    #[error("sandbox not found: {0}")]
    NotFound(SandboxId),
    /// The server ends.
    #[error("the host agent is shutting down")]
    Closing,
    /// The snapshot's id means one of another sandbox.
    #[error("snapshot {0} exists already, of another sandbox")]
    AlreadyExists(SnapshotId),
    /// The sandbox's state forbids it.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// It did not work.
    #[error("capture the sandbox")]
    Failed(#[source] CreateError),
}

/// Why something of a sandbox is still there.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DestroyError {
    /// There is none of that id.
    #[error("sandbox not found: {0}")]
    NotFound(SandboxId),
    /// The server ends, and the sandbox stays on disk.
    #[error("the host agent is shutting down")]
    Closing,
    /// Its owner task broke down while it removed the sandbox.
    #[error("removing sandbox {0} broke down; the host agent's log says how, and its next start removes what is left")]
    Abandoned(SandboxId),
    /// A part could not be removed; deleting again tries again.
    #[error("the sandbox's {part} could not be removed; delete it again to try again")]
    Left {
        /// What is left.
        part: &'static str,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a guest cannot be talked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UseError {
    /// There is none of that id.
    #[error("sandbox not found: {0}")]
    NotFound(SandboxId),
    /// It does not run.
    #[error("sandbox {id} is not running (status: {status})")]
    NotRunning {
        /// Which.
        id: SandboxId,
        /// What it is in.
        status: Status,
    },
}
