//! Pausing and resuming: the same steps in opposite directions. A stopped sandbox whose disk was kept is resumed by a start
//! from that.

use jiff::Timestamp;
use model::{Event, OwnerId, SandboxId, Status, transition};

use super::deadline::{TIME_OVER, WOKEN};
use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, EventKind, Sandbox};

#[derive(Clone, Copy)]
enum Direction {
    Pause,
    Resume,
    Start,
}

impl Direction {
    fn requested(self) -> Event {
        match self {
            Self::Pause => Event::PauseRequested,
            Self::Resume => Event::ResumeRequested,
            Self::Start => Event::StartRequested,
        }
    }

    fn kind(self) -> EventKind {
        match self {
            Self::Pause => EventKind::Pause,
            Self::Resume | Self::Start => EventKind::Resume,
        }
    }

    fn done(self) -> Event {
        match self {
            Self::Pause => Event::Paused,
            Self::Resume | Self::Start => Event::Ready,
        }
    }
}

impl Lifecycle {
    /// Pauses a running sandbox.
    pub async fn pause(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change(owner, id, Direction::Pause, Action::done).await }).await
    }

    /// Pauses a running sandbox whose time is over.
    pub(super) async fn pause_overdue(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        let because = |kind| Action::by_itself(kind, TIME_OVER);
        self.detached("pause", async move { this.change(owner, id, Direction::Pause, because).await }).await
    }

    /// Resumes a paused sandbox, or starts one that its machine's restart has stopped.
    pub async fn resume(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("resume", async move { this.change(owner, id, Direction::Resume, Action::done).await }).await
    }

    async fn change(
        &self,
        owner: OwnerId,
        id: SandboxId,
        direction: Direction,
        done: fn(EventKind) -> Action,
    ) -> Result<Sandbox, LifecycleError> {
        let mut settled = self.store.get(&owner, &id).await?.ok_or(LifecycleError::NotFound)?;
        if !matches!(direction, Direction::Pause) && settled.is_overdue(Timestamp::now()) {
            settled = self.give_time(&settled, WOKEN).await?;
        }
        let direction = match (direction, settled.status) {
            (Direction::Resume, Status::Stopped) if settled.keeps_disk => Direction::Start,
            _ => direction,
        };
        let transient = Change::to(transition(settled.status, direction.requested())?);
        let changing = self.apply(&settled, transient).await?;
        let asked = match direction {
            Direction::Pause => self.host.pause(&changing).await,
            Direction::Resume | Direction::Start => self.host.resume(&changing).await,
        };
        match asked {
            Ok(()) => {
                if let Direction::Pause = direction {
                    // Before anybody sees it paused, and looks for them.
                    self.keep_metrics(&id).await;
                }
                let change = match transition(changing.status, direction.done())? {
                    Status::Running => Change::running(),
                    other => Change::to(other),
                };
                self.apply(&changing, change.with_action(done(direction.kind()))).await
            }
            Err(error) => {
                self.nudge.notify_one();
                let change = match transition(changing.status, Event::RolledBack)? {
                    Status::Stopped => Change::stopped_with_disk(&settled.status_reason),
                    other => Change::to(other),
                };
                let action = Action::failed(direction.kind(), error.to_string());
                self.apply(&changing, change.with_action(action)).await?;
                Err(LifecycleError::Host(error))
            }
        }
    }
}
