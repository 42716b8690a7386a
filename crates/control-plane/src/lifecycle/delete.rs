//! Deleting a sandbox: legal in every state, and as often as one likes.

use model::{Event, OwnerId, SandboxId, Status, transition};

use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, EventKind, Sandbox};

/// How often a delete looks again at a sandbox that others change under its hands. Nobody can change it that often:
/// once it is stopping, only deletes touch it.
const ATTEMPTS: usize = 16;

impl Lifecycle {
    /// Removes a sandbox from its host and answers when nothing of it is left there.
    pub async fn delete(&self, owner: OwnerId, id: SandboxId) -> Result<(), LifecycleError> {
        let this = self.clone();
        self.detached("delete", async move { this.delete_now(owner, id).await }).await
    }

    /// Removes a sandbox whose time is over, or that is only on disk and that its owner has not used for too long, or has too
    /// many of, if nobody has touched it since it was seen. Returns whether it is gone.
    pub async fn expire(&self, seen: Sandbox, reason: String) -> Result<bool, LifecycleError> {
        let this = self.clone();
        let work = async move {
            let stopping = Change::because(Status::Stopping, &reason).unless_time_is_given(&seen);
            let Some(stopping) = this.store.update(&seen, stopping).await? else { return Ok(false) };
            this.end(stopping, Action::by_itself(EventKind::Destroy, &reason)).await.map(|()| true)
        };
        self.detached("delete", work).await
    }

    pub(super) async fn delete_now(&self, owner: OwnerId, id: SandboxId) -> Result<(), LifecycleError> {
        let stopping = self.mark_stopping(&owner, &id).await?;
        if stopping.status == Status::Stopped {
            return Ok(());
        }
        self.end(stopping, Action::done(EventKind::Destroy)).await
    }

    /// Removes from its host what is `stopping`, and records it with the reason that it had.
    async fn end(&self, stopping: Sandbox, done: Action) -> Result<(), LifecycleError> {
        match self.host.destroy(&stopping.id).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                self.nudge.notify_one();
                self.store.record_action(&stopping, Action::failed(EventKind::Destroy, error.to_string())).await?;
                return Err(LifecycleError::Host(error));
            }
        }
        let stopped = transition(stopping.status, Event::Deleted)?;
        let stopped = Change::because(stopped, &stopping.status_reason).with_action(done);
        // Losing this means that another delete has written the same.
        self.store.update(&stopping, stopped).await?;
        Ok(())
    }

    /// The record in `stopping`, or in `stopped` when it was that already.
    async fn mark_stopping(&self, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, LifecycleError> {
        for _ in 0..ATTEMPTS {
            let seen = self.store.get(owner, id).await?.ok_or(LifecycleError::NotFound)?;
            let next = match seen.status {
                Status::Stopped if seen.keeps_disk => Status::Stopping,
                status => transition(status, Event::DeleteRequested)?,
            };
            if next == seen.status {
                return Ok(seen);
            }
            if let Some(stopping) = self.store.update(&seen, Change::to(next)).await? {
                return Ok(stopping);
            }
        }
        Err(LifecycleError::Race(None))
    }
}
