//! Creating a sandbox.

use model::{Event, IllegalTransition, transition};

use super::{Interrupted, Lifecycle};
use crate::host::HostError;
use crate::store::{Action, Change, EventKind, NewSandbox, Sandbox, StoreError};

/// A sandbox that was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The host agent turned it down or failed. A refusal, or a guest that did not answer in time, leaves no record;
    /// any other failure leaves one in `error`.
    #[error("the host agent did not create the sandbox")]
    Host(#[source] HostError),
    /// Somebody deleted it in the meantime.
    #[error("the sandbox was deleted while it was being created")]
    Deleted,
    /// Its record could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A pending sandbox that cannot become what it must: a fault of ours.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The work was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Lifecycle {
    /// Records the sandbox, has it booted, and answers when its guest agent does.
    pub async fn create(&self, new: NewSandbox) -> Result<Sandbox, CreateError> {
        let this = self.clone();
        self.detached(async move { this.create_now(new).await }).await
    }

    async fn create_now(&self, new: NewSandbox) -> Result<Sandbox, CreateError> {
        let pending = self.store.insert(&new).await?;
        transition(pending.status, Event::Ready)?;
        match self.host.create(&pending).await {
            Ok(host_ip) => self.created(pending, host_ip).await,
            Err(error) => Err(self.not_created(pending, error).await?),
        }
    }

    async fn created(&self, pending: Sandbox, host_ip: String) -> Result<Sandbox, CreateError> {
        let change = Change::running().with_host_ip(host_ip).with_action(Action::done(EventKind::Create));
        let running = self.store.update(&pending, change).await;
        match running {
            Ok(Some(running)) => Ok(running),
            Ok(None) => {
                // The delete may have reached the host before the sandbox was there.
                self.clean_up(&pending).await;
                Err(CreateError::Deleted)
            }
            Err(error) => {
                self.nudge.notify_one();
                self.clean_up(&pending).await;
                Err(error.into())
            }
        }
    }

    /// Settles the record of a sandbox that the host did not make, and returns what to tell the caller.
    async fn not_created(&self, pending: Sandbox, error: HostError) -> Result<CreateError, CreateError> {
        // Without an answer, or after a late one, the sandbox may be there all the same.
        if !error.is_refusal() {
            self.nudge.notify_one();
        }
        let is_gone = error.is_refusal() || (self.clean_up(&pending).await && error.is_timeout());
        let action = Action::failed(EventKind::Create, error.to_string());
        let settled = if is_gone {
            self.store.record_action(&pending, action).await?;
            self.store.forget(&pending).await?
        } else {
            let failed = transition(pending.status, Event::Failed)?;
            let change = Change::because(failed, error.to_string()).with_action(action);
            self.store.update(&pending, change).await?.is_some()
        };
        Ok(if settled { CreateError::Host(error) } else { CreateError::Deleted })
    }
}
