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
    /// Of a sandbox whose time is over.
    PauseOverdue,
    Resume,
    Start,
}

impl Direction {
    fn requested(self) -> Event {
        match self {
            Self::Pause | Self::PauseOverdue => Event::PauseRequested,
            Self::Resume => Event::ResumeRequested,
            Self::Start => Event::StartRequested,
        }
    }

    fn kind(self) -> EventKind {
        match self {
            Self::Pause | Self::PauseOverdue => EventKind::Pause,
            Self::Resume | Self::Start => EventKind::Resume,
        }
    }

    fn done(self) -> Event {
        match self {
            Self::Pause | Self::PauseOverdue => Event::Paused,
            Self::Resume | Self::Start => Event::Ready,
        }
    }

    /// What is recorded when it has come to its end.
    fn action(self) -> Action {
        match self {
            Self::PauseOverdue => Action::by_itself(self.kind(), TIME_OVER),
            Self::Pause | Self::Resume | Self::Start => Action::done(self.kind()),
        }
    }
}

impl Lifecycle {
    /// Pauses a running sandbox.
    pub async fn pause(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change(owner, id, Direction::Pause).await }).await
    }

    /// Pauses a running sandbox whose time was over when it was seen.
    pub(super) async fn pause_overdue(&self, seen: Sandbox) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change_settled(seen, Direction::PauseOverdue).await }).await
    }

    /// Resumes a paused sandbox, or starts one that its machine's restart has stopped.
    pub async fn resume(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("resume", async move { this.change(owner, id, Direction::Resume).await }).await
    }

    async fn change(&self, owner: OwnerId, id: SandboxId, direction: Direction) -> Result<Sandbox, LifecycleError> {
        let mut settled = self.store.get(&owner, &id).await?.ok_or(LifecycleError::NotFound)?;
        if !matches!(direction, Direction::Pause) && settled.is_overdue(Timestamp::now()) {
            settled = self.give_time(&settled, WOKEN).await?;
        }
        self.change_settled(settled, direction).await
    }

    async fn change_settled(&self, settled: Sandbox, direction: Direction) -> Result<Sandbox, LifecycleError> {
        let direction = match (direction, settled.status) {
            (Direction::Resume, Status::Stopped) if settled.keeps_disk => Direction::Start,
            _ => direction,
        };
        let transient = Change::to(transition(settled.status, direction.requested())?);
        let transient = match direction {
            Direction::PauseOverdue => transient.unless_time_is_given(&settled),
            Direction::Pause | Direction::Resume | Direction::Start => transient,
        };
        let changing = self.apply(&settled, transient).await?;
        let asked = match direction {
            Direction::Pause | Direction::PauseOverdue => self.host.pause(&changing).await,
            Direction::Resume | Direction::Start => self.host.resume(&changing).await,
        };
        match asked {
            Ok(()) => {
                if let Direction::Pause | Direction::PauseOverdue = direction {
                    // Before anybody sees it paused, and looks for them.
                    self.keep_metrics(&changing.id).await;
                }
                let change = match transition(changing.status, direction.done())? {
                    Status::Running => Change::running(),
                    other => Change::to(other),
                };
                self.apply(&changing, change.with_action(direction.action())).await
            }
            Err(error) => {
                let change = match transition(changing.status, Event::RolledBack)? {
                    // To say that it is as before could be wrong.
                    _ if error.is_unknown() => Change::let_go(&changing),
                    Status::Stopped => Change::stopped_with_disk(&settled.status_reason),
                    other => Change::to(other),
                };
                let action = Action::failed(direction.kind(), error.to_string());
                let recorded = self.apply(&changing, change.with_action(action)).await;
                self.nudge.notify_one();
                recorded?;
                Err(LifecycleError::Host(error))
            }
        }
    }
}
