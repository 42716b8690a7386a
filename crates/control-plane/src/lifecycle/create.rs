//! Creating a sandbox.

use model::{Event, transition};

use super::{Lifecycle, LifecycleError};
use crate::host::HostError;
use crate::store::{Action, Change, EventKind, NewSandbox, Sandbox};

impl Lifecycle {
    /// Records the sandbox, has it booted, and answers when its guest agent does.
    pub async fn create(&self, new: NewSandbox) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("create", async move { this.create_now(new).await }).await
    }

    async fn create_now(&self, new: NewSandbox) -> Result<Sandbox, LifecycleError> {
        let pending = self.store.insert(&new).await?;
        self.make(pending).await
    }

    /// Has the host make what is recorded as pending.
    pub(super) async fn make(&self, pending: Sandbox) -> Result<Sandbox, LifecycleError> {
        // From here on the log of the host, which knows no requests, speaks of the sandbox.
        tracing::info!(sandbox = %pending.id, template = %pending.template, "creating");
        transition(pending.status, Event::Ready)?;
        if let Some(snapshot) = &pending.snapshot
            && let Err(error) = self.store.touch_snapshot(snapshot).await
        {
            tracing::warn!(%snapshot, error = &error as &dyn std::error::Error, "use not recorded");
        }
        match self.host.create(&pending).await {
            Ok(host_ip) => self.created(pending, host_ip).await,
            Err(error) => Err(self.not_created(pending, error).await?),
        }
    }

    async fn created(&self, pending: Sandbox, host_ip: String) -> Result<Sandbox, LifecycleError> {
        let change = Change::running().with_host_ip(host_ip).with_action(Action::done(EventKind::Create));
        let running = self.store.update(&pending, change).await;
        match running {
            Ok(Some(running)) => Ok(running),
            Ok(None) => {
                // The delete may have reached the host before the sandbox was there.
                self.clean_up(&pending).await;
                Err(LifecycleError::Deleted)
            }
            Err(error) => {
                self.nudge.notify_one();
                self.clean_up(&pending).await;
                Err(error.into())
            }
        }
    }

    /// Settles the record of a sandbox that the host did not make, and returns what to tell the caller.
    async fn not_created(&self, pending: Sandbox, error: HostError) -> Result<LifecycleError, LifecycleError> {
        // Without an answer, or after a late one, the sandbox may be there all the same.
        if !error.is_refusal() {
            self.nudge.notify_one();
        }
        let is_gone = error.is_refusal() || (self.clean_up(&pending).await && error.is_timeout());
        let action = Action::failed(EventKind::Create, error.to_string());
        let settled = if is_gone {
            self.store.forget(&pending, action).await?
        } else {
            let failed = transition(pending.status, Event::Failed)?;
            let change = Change::because(failed, error.to_string()).with_action(action);
            self.store.update(&pending, change).await?.is_some()
        };
        Ok(if settled { LifecycleError::Host(error) } else { LifecycleError::Deleted })
    }
}
