//! The states of a sandbox and the only place that says which event is legal in which.
//!
//! ```text
//!            create
//!              │
//!          ┌───▼────┐ failed            ┌───────┐
//!          │pending ├──────────────────▶│ error │
//!          └───┬────┘                   └───▲───┘
//!        ready │         pause              │ lost (from any state with a VM)
//!          ┌───▼────┐─────────▶┌─────────┐  │
//!     ┌───▶│running │◀─────────│ pausing │──┘
//!     │    └─┬────▲─┘  failed  └────┬────┘
//!  done│snap-│    │ ready           │ done
//!     │ shot │    │            ┌────▼────┐
//!  ┌──┴──────▼─┐ ┌┴─────────┐  │ paused  │
//!  │snapshotting│ │resuming  │◀─┤         │
//!  └────────────┘ └──────────┘  └─────────┘
//!                   │ failed: back to paused
//!
//!  delete is legal everywhere:  any ──▶ stopping ──done──▶ stopped
//!  stop:                        running, paused ──▶ pausing ──done──▶ stopped, its disk kept
//!  the machine was restarted:   running ──▶ stopped, its disk kept ──start──▶ pending ──failed──▶ stopped
//!  a host that does not answer: any live state ──▶ missing ──▶ the state it has when it is back
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The state of a sandbox: one enum for rows, hosts and the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted; its VM is not answering yet.
    Pending,
    /// Its guest agent answers.
    Running,
    /// On the way to paused, or to stopped with its disk kept.
    Pausing,
    /// Executes nothing and can be resumed.
    Paused,
    /// On the way from paused to running.
    Resuming,
    /// Being captured; goes on as it was afterwards.
    Snapshotting,
    /// Being deleted.
    Stopping,
    /// Gone: nothing of it is left on its host, unless its disk was kept.
    Stopped,
    /// Its host does not answer, so nothing is known.
    Missing,
    /// Failed, with a reason; only deletion is left.
    Error,
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The VM is up, or runs again, and the guest agent answers.
    Ready,
    /// Someone asked for a pause.
    PauseRequested,
    /// The pause is complete.
    Paused,
    /// Someone asked that only its disk be kept.
    StopRequested,
    /// Only its disk is left.
    Halted,
    /// Someone asked for a resume.
    ResumeRequested,
    /// Someone asked for the start of a stopped sandbox whose disk was kept. Of one that was deleted nobody can.
    StartRequested,
    /// Someone asked for a snapshot or a fork of a running sandbox. A paused one stays what it is.
    SnapshotRequested,
    /// The snapshot is complete, and the sandbox goes on.
    Captured,
    /// What was under way did not work, and the sandbox is as it was before.
    RolledBack,
    /// The VM could not be made, or is gone.
    Failed,
    /// Someone asked for deletion.
    DeleteRequested,
    /// Nothing is left.
    Deleted,
}

/// An event that is not legal in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} is not possible while the sandbox is {from}", event.describe())]
pub struct IllegalTransition {
    /// The state it was in.
    pub from: Status,
    /// What was asked of it.
    pub event: Event,
}

/// The state that `event` leads to from `from`.
///
/// Deleting is legal in every state, and never leads anywhere but towards [`Status::Stopped`].
pub fn transition(from: Status, event: Event) -> Result<Status, IllegalTransition> {
    use Status as S;
    let to = match (from, event) {
        (S::Stopped, Event::DeleteRequested | Event::Deleted) => S::Stopped,
        (_, Event::DeleteRequested) => S::Stopping,
        (S::Stopping, Event::Deleted) => S::Stopped,
        (S::Pending | S::Resuming, Event::Ready) => S::Running,
        (S::Stopped, Event::StartRequested) => S::Pending,
        (S::Pending, Event::RolledBack) => S::Stopped,
        (S::Running, Event::PauseRequested) => S::Pausing,
        (S::Running | S::Paused, Event::StopRequested) => S::Pausing,
        // Of a stop that did not work this is how a paused one is again what it was.
        (S::Pausing, Event::Paused) => S::Paused,
        // Of a resume from the disk alone that did not work, this is how one is left that was paused.
        (S::Pausing | S::Resuming, Event::Halted) => S::Stopped,
        (S::Paused, Event::ResumeRequested) => S::Resuming,
        (S::Running, Event::SnapshotRequested) => S::Snapshotting,
        (S::Snapshotting, Event::Captured | Event::RolledBack) => S::Running,
        // It executes nothing anyhow, so nothing has to wait for the capture.
        (S::Paused, Event::SnapshotRequested | Event::Captured | Event::RolledBack) => S::Paused,
        (S::Pausing, Event::RolledBack) => S::Running,
        (S::Resuming, Event::RolledBack) => S::Paused,
        (S::Pending | S::Running | S::Pausing | S::Paused | S::Resuming | S::Snapshotting, Event::Failed) => S::Error,
        _ => return Err(IllegalTransition { from, event }),
    };
    Ok(to)
}

impl Status {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Snapshotting,
        Self::Stopping,
        Self::Stopped,
        Self::Missing,
        Self::Error,
    ];

    /// The state's name in the API, in RPC and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Snapshotting => "snapshotting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Missing => "missing",
            Self::Error => "error",
        }
    }
}

impl Event {
    fn describe(self) -> &'static str {
        match self {
            Self::Ready => "becoming ready",
            Self::PauseRequested => "pausing",
            Self::Paused => "having been paused",
            Self::StopRequested => "stopping",
            Self::Halted => "having been stopped",
            Self::ResumeRequested => "resuming",
            Self::StartRequested => "starting",
            Self::SnapshotRequested => "taking a snapshot",
            Self::Captured => "having been captured",
            Self::RolledBack => "rolling back",
            Self::Failed => "failing",
            Self::DeleteRequested => "deleting",
            Self::Deleted => "having been deleted",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sandbox status")]
pub struct UnknownStatus(String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownStatus(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 13] = [
        Event::Ready,
        Event::PauseRequested,
        Event::Paused,
        Event::StopRequested,
        Event::Halted,
        Event::ResumeRequested,
        Event::StartRequested,
        Event::SnapshotRequested,
        Event::Captured,
        Event::RolledBack,
        Event::Failed,
        Event::DeleteRequested,
        Event::Deleted,
    ];

    #[test]
    fn delete_is_legal_in_every_state_and_ends() {
        for status in Status::ALL {
            let stopping = transition(status, Event::DeleteRequested).unwrap();
            assert_eq!(transition(stopping, Event::Deleted), Ok(Status::Stopped));
            assert_eq!(transition(stopping, Event::DeleteRequested), Ok(stopping), "deleting twice changes nothing");
        }
    }

    #[test]
    fn nothing_comes_back_from_deletion() {
        for status in [Status::Stopping, Status::Stopped] {
            // Asked of a stopped one only where its disk was kept, which no deletion does.
            let is_start = |event: &Event| (status, *event) == (Status::Stopped, Event::StartRequested);
            for event in EVENTS.into_iter().filter(|event| !is_start(event)) {
                if let Ok(next) = transition(status, event) {
                    assert!([Status::Stopping, Status::Stopped].contains(&next), "{status} {event:?} {next}");
                }
            }
        }
    }

    #[test]
    fn running_is_reached_only_through_a_guest_that_answers_or_that_was_running_just_before() {
        for status in Status::ALL {
            for event in EVENTS {
                if transition(status, event) == Ok(Status::Running) {
                    let ran = matches!(status, Status::Pausing | Status::Snapshotting);
                    assert!(event == Event::Ready || ran && matches!(event, Event::RolledBack | Event::Captured));
                }
            }
        }
    }

    #[test]
    fn a_stop_keeps_the_disk_of_what_runs_or_is_paused() {
        for status in Status::ALL {
            let may = matches!(status, Status::Running | Status::Paused);
            assert_eq!(transition(status, Event::StopRequested).is_ok(), may, "{status}");
        }
        let stopping = transition(Status::Paused, Event::StopRequested).unwrap();
        assert_eq!(transition(stopping, Event::Halted), Ok(Status::Stopped));
        assert_eq!(transition(stopping, Event::Paused), Ok(Status::Paused), "it did not work");
        assert_eq!(transition(Status::Stopped, Event::StartRequested), Ok(Status::Pending));
    }

    #[test]
    fn a_refusal_names_the_state() {
        let error = transition(Status::Paused, Event::PauseRequested).unwrap_err();
        assert_eq!(error.to_string(), "pausing is not possible while the sandbox is paused");
    }

    #[test]
    fn names_and_states_match_both_ways() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
        }
        assert!("starting".parse::<Status>().is_err());
    }
}
