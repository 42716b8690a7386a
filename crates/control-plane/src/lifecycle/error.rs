//! What can go wrong with a change of a sandbox's state.

use model::{IllegalTransition, Status};

use super::{Interrupted, SnapshotError};
use crate::host::HostError;
use crate::store::{Sandbox, StoreError};

/// A create, pause, resume, snapshot, fork or delete that did not happen, or not completely.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The caller has no such sandbox.
    #[error("sandbox not found")]
    NotFound,
    /// Not in this state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Its guest cannot be reached in this state.
    #[error("sandbox is not running (status: {status}){}", because(reason))]
    NotRunning {
        /// What it is in.
        status: Status,
        /// Why, where its record says so.
        reason: String,
    },
    /// It is the snapshot that stands in the way.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Somebody else changed the sandbox at the same time; it may be known what it is now.
    #[error("the sandbox was changed by another request at the same time{}", now(.0))]
    Race(Option<Status>),
    /// The key of the request was given to another one before.
    #[error("the idempotency key was given to a different request before")]
    KeyReused,
    /// Somebody deleted it before it was there.
    #[error("the sandbox was deleted while it was being created")]
    Deleted,
    /// The host agent turned it down or failed. After a pause or a resume the sandbox is as it was before; after a
    /// delete it stays `stopping` and another delete tries again; after a create there is no record if it was a
    /// refusal or a guest that did not answer in time, else one in `error`.
    #[error("the host agent did not do it")]
    Host(#[source] HostError),
    /// The record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl LifecycleError {
    /// Of a sandbox that would have to run.
    pub fn not_running(sandbox: &Sandbox) -> Self {
        Self::NotRunning { status: sandbox.status, reason: sandbox.status_reason.clone() }
    }

    /// One word for figures, out of a small set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound | Self::Snapshot(SnapshotError::NotFound) => "not_found",
            Self::Illegal(_) | Self::NotRunning { .. } | Self::Snapshot(SnapshotError::NotReady { .. }) => {
                "invalid_state"
            }
            Self::Race(_) | Self::Deleted | Self::KeyReused | Self::Snapshot(_) => "conflict",
            Self::Host(error) => error.reason(),
            Self::Store(_) => "database",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

fn now(status: &Option<Status>) -> String {
    status.map(|status| format!(" and is {status}")).unwrap_or_default()
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
