//! Creating a sandbox.

use std::time::Duration;

use model::{Event, StartMode, Status, transition};

use tokio::time::timeout;

use super::{Lifecycle, LifecycleError};
use crate::host::HostError;
use crate::store::{Action, Change, EventKind, Inserted, NewSandbox, Once, Sandbox};

/// How often the host is asked whether a template is built.
const BUILT_YET: Duration = Duration::from_secs(1);

/// How often one looks whether a sandbox is there that another request makes. Other processes may change its record.
const MADE_YET: Duration = Duration::from_millis(500);

/// What is done while a template is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileBuilding {
    /// The create is refused.
    Refuse,
    /// The create waits, as long as that takes.
    Wait,
}

/// How a sandbox is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Making {
    /// What is done while its template is being built.
    pub while_building: WhileBuilding,
    /// By which way it comes to be.
    pub start: StartMode,
}

/// What is left of a sandbox that a host did not make and has nothing of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// Nothing: nobody but the caller knows of it, and the caller is told.
    None,
    /// Its record in error: the caller may have stopped waiting, and will ask what became of it.
    Record,
}

impl Lifecycle {
    /// Records the sandbox, has it booted, and answers when its guest agent does. With a key, the same request makes one
    /// sandbox, however often it is made.
    pub async fn create(&self, new: NewSandbox, making: Making, once: Option<Once>) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("create", async move { this.create_now(new, making, once).await }).await
    }

    async fn create_now(&self, new: NewSandbox, making: Making, once: Option<Once>) -> Result<Sandbox, LifecycleError> {
        let Some(once) = once else { return self.make(self.store.insert(&new).await?, making).await };
        let mut news = self.store.news();
        loop {
            let made = match self.store.insert_once(&new, &once).await? {
                Inserted::New(pending) => return self.make(*pending, making).await,
                Inserted::Before(made) => made,
                Inserted::Different => return Err(LifecycleError::KeyReused),
            };
            // Seen before the record is read, so that what comes after it is not missed.
            news.mark_unchanged();
            match self.store.get(&new.owner, &made).await? {
                Some(sandbox) if sandbox.status != Status::Pending => return Ok(sandbox),
                // Another request makes it, or was refused, and then this one may try.
                Some(_) | None => drop(timeout(MADE_YET, news.changed()).await),
            }
        }
    }

    /// Has the host make what is recorded as pending.
    pub(super) async fn make(&self, pending: Sandbox, making: Making) -> Result<Sandbox, LifecycleError> {
        // From here on the log of the host, which knows no requests, speaks of the sandbox.
        tracing::info!(sandbox = %pending.id, template = %pending.template, "creating");
        transition(pending.status, Event::Ready)?;
        if let Some(snapshot) = &pending.snapshot
            && let Err(error) = self.store.touch_snapshot(snapshot).await
        {
            tracing::warn!(%snapshot, error = &error as &dyn std::error::Error, "use not recorded");
        }
        let network = self.store.network_policy(&pending)?;
        let mut trace = Trace::None;
        loop {
            match self.host.create(&pending, &network, making.start).await {
                Ok(host_ip) => return self.created(pending, host_ip).await,
                Err(error) if error.is_building() && making.while_building == WhileBuilding::Wait => {
                    trace = Trace::Record
                }
                Err(error) => return Err(self.not_created(pending, error, trace).await?),
            }
            tokio::time::sleep(BUILT_YET).await;
            if !self.store.still_pending(&pending).await? {
                return Err(LifecycleError::Deleted);
            }
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
    async fn not_created(
        &self,
        pending: Sandbox,
        error: HostError,
        trace: Trace,
    ) -> Result<LifecycleError, LifecycleError> {
        // Without an answer, or after a late one, the sandbox may be there all the same.
        if !error.is_refusal() {
            self.nudge.notify_one();
        }
        let is_gone = error.is_refusal() || (self.clean_up(&pending).await && error.is_timeout());
        let action = Action::failed(EventKind::Create, error.to_string());
        let settled = if is_gone && trace == Trace::None {
            self.store.forget(&pending, action).await?
        } else {
            let failed = transition(pending.status, Event::Failed)?;
            let change = Change::because(failed, error.to_string()).with_action(action);
            self.store.update(&pending, change).await?.is_some()
        };
        Ok(if settled { LifecycleError::Host(error) } else { LifecycleError::Deleted })
    }
}
