//! What changes a sandbox's state: create, pause, resume, snapshot, fork, delete.
//!
//! Each runs as a task of its own, so that a client that hangs up ends nothing half way. Each writes the transient
//! status before it begins and every status conditionally, so that of two at once one wins and the other is told.
//! What is legal in which state is [`model::transition`]'s to say. Knows nothing of HTTP.

mod create;
mod deadline;
mod delete;
mod error;
mod fork;
mod network;
mod pause;
mod snapshot;
mod wake;

use std::sync::Arc;

use model::{SandboxId, Status};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::host::HostAgent;
use crate::metrics::Metrics;
use crate::store::{Change, Sandbox, Store, StoreError};

pub use create::{Making, WhileBuilding};
pub(crate) use deadline::TIME_OVER;
pub use deadline::{after, keep_deadlines};
pub use error::LifecycleError;
pub(crate) use pause::STOPPED;
pub use snapshot::SnapshotError;

/// The lifecycle of every sandbox; cheap to clone.
#[derive(Clone)]
pub struct Lifecycle {
    store: Store,
    host: HostAgent,
    tasks: TaskTracker,
    /// Wakes whoever puts right what went wrong.
    nudge: Arc<Notify>,
    /// Counts what was done and what was not.
    metrics: Metrics,
}

/// The task that did the work ended without a result: it panicked, or the server is going down.
#[derive(Debug, thiserror::Error)]
#[error("the work was interrupted")]
pub struct Interrupted;

impl Lifecycle {
    /// The lifecycle of the sandboxes in `store` on `host`. Work under way is counted in `tasks`; `nudge` is told when
    /// records and host may disagree.
    pub fn new(store: Store, host: HostAgent, tasks: TaskTracker, nudge: Arc<Notify>, metrics: Metrics) -> Self {
        Self { store, host, tasks, nudge, metrics }
    }

    /// Runs `work` to its end whether or not the caller waits for it, and counts it under the operation's name.
    async fn detached<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, LifecycleError>> + Send + 'static,
    ) -> Result<T, LifecycleError> {
        let metrics = self.metrics.clone();
        let counted = async move {
            let began = Instant::now();
            let result = work.await;
            metrics.operation(operation, result.as_ref().err().map_or("ok", LifecycleError::reason), began.elapsed());
            result
        };
        // What it logs belongs to the request that asked for it.
        self.tasks.spawn(counted.in_current_span()).await.unwrap_or_else(|_| Err(Interrupted.into()))
    }

    /// Removes what a lost create may have left on the host. Returns whether nothing is left for certain; nobody waits
    /// for a failure, so it is only logged.
    async fn clean_up(&self, sandbox: &Sandbox) -> bool {
        match self.host.destroy(&sandbox.id).await {
            Ok(()) => true,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(sandbox = %sandbox.id, error, "the host may still have a sandbox that nobody wants");
                false
            }
        }
    }

    /// Keeps what a paused sandbox has used, which its host may forget now. A pause is none the worse without.
    pub async fn keep_metrics(&self, id: &SandboxId) {
        let kept = async {
            let history = self.host.flush_metrics(id).await.map_err(LifecycleError::Host)?;
            Ok::<_, LifecycleError>(self.store.keep_metrics(id, history).await?)
        };
        if let Err(error) = kept.await {
            tracing::warn!(sandbox = %id, error = &error as &dyn std::error::Error, "its metrics are not kept");
        }
    }

    /// Changes the record, if it is still the one that was seen.
    async fn apply(&self, seen: &Sandbox, change: Change) -> Result<Sandbox, LifecycleError> {
        match self.store.update(seen, change).await? {
            Some(sandbox) => Ok(sandbox),
            None => Err(LifecycleError::Race(self.status_now(seen).await?)),
        }
    }

    /// The status that a sandbox has by now, for a message to whoever lost it.
    async fn status_now(&self, sandbox: &Sandbox) -> Result<Option<Status>, StoreError> {
        Ok(self.store.get(&sandbox.owner, &sandbox.id).await?.map(|sandbox| sandbox.status))
    }
}
