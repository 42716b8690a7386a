//! Pausing and resuming: the same steps in opposite directions.

use model::{Event, OwnerId, SandboxId, Status, transition};

use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, EventKind, Sandbox};

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
    pub async fn pause(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change(owner, id, Direction::Pause).await }).await
    }

    /// Resumes a paused sandbox.
    pub async fn resume(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("resume", async move { this.change(owner, id, Direction::Resume).await }).await
    }

    async fn change(&self, owner: OwnerId, id: SandboxId, direction: Direction) -> Result<Sandbox, LifecycleError> {
        let settled = self.store.get(&owner, &id).await?.ok_or(LifecycleError::NotFound)?;
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
                Err(LifecycleError::Host(error))
            }
        }
    }
}
