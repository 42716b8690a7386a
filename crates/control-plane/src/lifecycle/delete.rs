//! Deleting a sandbox: legal in every state, and as often as one likes.

use model::{Event, IllegalTransition, OwnerId, SandboxId, Status, transition};

use super::{Interrupted, Lifecycle};
use crate::host::HostError;
use crate::store::{Action, Change, EventKind, Sandbox, StoreError};

/// How often a delete looks again at a sandbox that others change under its hands. Nobody can change it that often:
/// once it is stopping, only deletes touch it.
const ATTEMPTS: usize = 16;

/// A delete that is not complete.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The caller has no such sandbox.
    #[error("sandbox not found")]
    NotFound,
    /// The host agent did not remove it. The record stays `stopping`; another delete tries again.
    #[error("the host agent did not remove the sandbox")]
    Host(#[source] HostError),
    /// Others changed it all the time.
    #[error("the sandbox is being changed by other requests")]
    Race,
    /// The record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state that cannot be deleted: a fault of ours.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The work was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Lifecycle {
    /// Removes a sandbox from its host and answers when nothing of it is left there.
    pub async fn delete(&self, owner: OwnerId, id: SandboxId) -> Result<(), DeleteError> {
        let this = self.clone();
        self.detached(async move { this.delete_now(owner, id).await }).await
    }

    async fn delete_now(&self, owner: OwnerId, id: SandboxId) -> Result<(), DeleteError> {
        let stopping = self.mark_stopping(&owner, &id).await?;
        if stopping.status == Status::Stopped {
            return Ok(());
        }
        match self.host.destroy(&id).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                self.nudge.notify_one();
                self.store.record_action(&stopping, Action::failed(EventKind::Destroy, error.to_string())).await?;
                return Err(DeleteError::Host(error));
            }
        }
        let stopped = Change::to(transition(stopping.status, Event::Deleted)?);
        let stopped = stopped.with_action(Action::done(EventKind::Destroy));
        // Losing this means that another delete has written the same.
        self.store.update(&stopping, stopped).await?;
        Ok(())
    }

    /// The record in `stopping`, or in `stopped` when it was that already.
    async fn mark_stopping(&self, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, DeleteError> {
        for _ in 0..ATTEMPTS {
            let seen = self.store.get(owner, id).await?.ok_or(DeleteError::NotFound)?;
            let next = transition(seen.status, Event::DeleteRequested)?;
            if next == seen.status {
                return Ok(seen);
            }
            if let Some(stopping) = self.store.update(&seen, Change::to(next)).await? {
                return Ok(stopping);
            }
        }
        Err(DeleteError::Race)
    }
}
