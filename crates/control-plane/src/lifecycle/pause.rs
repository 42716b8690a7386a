//! Pausing and resuming: the same steps in opposite directions.

use model::{Event, IllegalTransition, OwnerId, SandboxId, Status, transition};

use super::{Interrupted, Lifecycle};
use crate::host::HostError;
use crate::store::{Action, Change, EventKind, Sandbox, StoreError};

/// A pause or resume that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The caller has no such sandbox.
    #[error("sandbox not found")]
    NotFound,
    /// Not in this state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Somebody else changed the sandbox at the same time.
    #[error("the sandbox was changed by another request at the same time{}", now(.0))]
    Race(Option<Status>),
    /// The host agent did not do it. The sandbox is as it was before.
    #[error("the host agent did not do it")]
    Host(#[source] HostError),
    /// The record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was cut short.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn now(status: &Option<Status>) -> String {
    status.map(|status| format!(" and is {status}")).unwrap_or_default()
}

#[derive(Clone, Copy)]
enum Direction {
    Pause,
    Resume,
}

impl Direction {
    fn requested(self) -> Event {
        match self {
            Self::Pause => Event::PauseRequested,
            Self::Resume => Event::ResumeRequested,
        }
    }

    fn kind(self) -> EventKind {
        match self {
            Self::Pause => EventKind::Pause,
            Self::Resume => EventKind::Resume,
        }
    }

    fn done(self) -> Event {
        match self {
            Self::Pause => Event::Paused,
            Self::Resume => Event::Ready,
        }
    }
}

impl Lifecycle {
    /// Pauses a running sandbox.
    pub async fn pause(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, ChangeError> {
        let this = self.clone();
        self.detached(async move { this.change(owner, id, Direction::Pause).await }).await
    }

    /// Resumes a paused sandbox.
    pub async fn resume(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, ChangeError> {
        let this = self.clone();
        self.detached(async move { this.change(owner, id, Direction::Resume).await }).await
    }

    async fn change(&self, owner: OwnerId, id: SandboxId, direction: Direction) -> Result<Sandbox, ChangeError> {
        let settled = self.store.get(&owner, &id).await?.ok_or(ChangeError::NotFound)?;
        let transient = Change::to(transition(settled.status, direction.requested())?);
        let changing = self.apply(&settled, transient).await?;
        let asked = match direction {
            Direction::Pause => self.host.pause(&id).await,
            Direction::Resume => self.host.resume(&id).await,
        };
        match asked {
            Ok(()) => {
                let change = match transition(changing.status, direction.done())? {
                    Status::Running => Change::running(),
                    other => Change::to(other),
                };
                self.apply(&changing, change.with_action(Action::done(direction.kind()))).await
            }
            Err(error) => {
                self.nudge.notify_one();
                let change = Change::to(transition(changing.status, Event::RolledBack)?);
                let action = Action::failed(direction.kind(), error.to_string());
                self.apply(&changing, change.with_action(action)).await?;
                Err(ChangeError::Host(error))
            }
        }
    }

    async fn apply(&self, seen: &Sandbox, change: Change) -> Result<Sandbox, ChangeError> {
        match self.store.update(seen, change).await? {
            Some(sandbox) => Ok(sandbox),
            None => Err(ChangeError::Race(self.status_now(seen).await?)),
        }
    }
}
