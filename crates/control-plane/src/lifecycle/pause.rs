//! Pausing, stopping and resuming: the same steps in different directions. A stopped sandbox whose disk was kept is resumed
//! by a start from that.

use jiff::Timestamp;
use model::{Event, Extent, OwnerId, SandboxId, Status, transition};

use super::deadline::{TIME_OVER, WOKEN};
use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, EventKind, Sandbox};

/// Where to, and whether because its time is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Pause(Because),
    Stop(Because),
    Resume(Extent),
    Start,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Because {
    /// Its owner asked for it.
    Asked,
    /// Its time was over when it was seen.
    Overdue,
}

impl Direction {
    fn requested(self) -> Event {
        match self {
            Self::Pause(_) => Event::PauseRequested,
            Self::Stop(_) => Event::StopRequested,
            Self::Resume(_) => Event::ResumeRequested,
            Self::Start => Event::StartRequested,
        }
    }

    fn kind(self) -> EventKind {
        match self {
            Self::Pause(_) | Self::Stop(_) => EventKind::Pause,
            Self::Resume(_) | Self::Start => EventKind::Resume,
        }
    }

    fn done(self) -> Event {
        match self {
            Self::Pause(_) => Event::Paused,
            Self::Stop(_) => Event::Halted,
            Self::Resume(_) | Self::Start => Event::Ready,
        }
    }

    /// What happens to a sandbox that was in this status where it did not work.
    fn undone(self, before: Status) -> Event {
        match (self, before) {
            (Self::Stop(_), Status::Paused) => Event::Paused,
            _ => Event::RolledBack,
        }
    }

    /// Whether a host that says that it did not work leaves a sandbox as it was.
    fn leaves_as_it_was(self) -> bool {
        self != Self::Resume(Extent::Disk)
    }

    fn is_down(self) -> bool {
        matches!(self, Self::Pause(_) | Self::Stop(_))
    }

    fn is_because_overdue(self) -> bool {
        matches!(self, Self::Pause(Because::Overdue) | Self::Stop(Because::Overdue))
    }

    /// What is recorded when it has come to its end.
    fn action(self) -> Action {
        if self.is_because_overdue() { Action::by_itself(self.kind(), TIME_OVER) } else { Action::done(self.kind()) }
    }

    /// What the record becomes then.
    fn change(self, status: Status) -> Change {
        let change = match status {
            Status::Running => Change::running(),
            Status::Stopped if self.is_because_overdue() => Change::stopped_with_disk(TIME_OVER),
            Status::Stopped => Change::stopped_with_disk(STOPPED),
            other => Change::to(other),
        };
        change.with_action(self.action())
    }
}

/// Why a sandbox is stopped whose owner wanted that, in its record.
pub(crate) const STOPPED: &str = "stopped";

impl Lifecycle {
    /// Pauses a running sandbox.
    pub async fn pause(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change(owner, id, Direction::Pause(Because::Asked)).await }).await
    }

    /// Pauses a running sandbox whose time was over when it was seen.
    pub(super) async fn pause_overdue(&self, seen: Sandbox) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("pause", async move { this.change_settled(seen, Direction::Pause(Because::Overdue)).await }).await
    }

    /// Ends a running or paused sandbox and keeps its disk alone.
    pub async fn stop(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("stop", async move { this.change(owner, id, Direction::Stop(Because::Asked)).await }).await
    }

    /// The same with a running sandbox whose time was over when it was seen.
    pub(super) async fn stop_overdue(&self, seen: Sandbox) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("stop", async move { this.change_settled(seen, Direction::Stop(Because::Overdue)).await }).await
    }

    /// Resumes a paused sandbox, or starts one that was stopped.
    pub async fn resume(&self, owner: OwnerId, id: SandboxId) -> Result<Sandbox, LifecycleError> {
        self.resume_from(owner, id, Extent::Full).await
    }

    /// The same, where a paused sandbox may have to give up its memory.
    pub async fn resume_from(&self, owner: OwnerId, id: SandboxId, from: Extent) -> Result<Sandbox, LifecycleError> {
        let this = self.clone();
        self.detached("resume", async move { this.change(owner, id, Direction::Resume(from)).await }).await
    }

    async fn change(&self, owner: OwnerId, id: SandboxId, direction: Direction) -> Result<Sandbox, LifecycleError> {
        let mut settled = self.store.get(&owner, &id).await?.ok_or(LifecycleError::NotFound)?;
        if !direction.is_down() && settled.is_overdue(Timestamp::now()) {
            settled = self.give_time(&settled, WOKEN).await?;
        }
        self.change_settled(settled, direction).await
    }

    async fn change_settled(&self, settled: Sandbox, direction: Direction) -> Result<Sandbox, LifecycleError> {
        let direction = match (direction, settled.status) {
            (Direction::Resume(_), Status::Stopped) if settled.keeps_disk => Direction::Start,
            _ => direction,
        };
        let transient = Change::to(transition(settled.status, direction.requested())?);
        let transient = match direction.is_because_overdue() {
            true => transient.unless_time_is_given(&settled),
            false => transient,
        };
        let changing = self.apply(&settled, transient).await?;
        let asked = match direction {
            Direction::Pause(_) => self.host.pause(&changing).await,
            Direction::Stop(_) => self.host.stop(&changing).await,
            Direction::Resume(from) => self.host.resume(&changing, from).await,
            Direction::Start => self.host.resume(&changing, Extent::Disk).await,
        };
        match asked {
            Ok(()) => {
                if direction.is_down() && settled.status == Status::Running {
                    // Before anybody sees that it does not run, and looks for them.
                    self.keep_metrics(&changing.id).await;
                }
                let done = transition(changing.status, direction.done())?;
                self.apply(&changing, direction.change(done)).await
            }
            Err(error) => {
                let change = match transition(changing.status, direction.undone(settled.status))? {
                    // To say that it is as before could be wrong.
                    _ if error.is_unknown() || !direction.leaves_as_it_was() => Change::let_go(&changing),
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
