//! What an owner task does to its sandbox when it is asked: each change of what the sandbox is in, from one that can be
//! asked for to the next.

use model::{Event, Extent, Generation, NetworkPolicy, Status, transition};

use super::super::capture::Capture;
use super::super::pause::ResumeFailure;
use super::super::{CaptureError, NetworkError, TransitionError};
use super::Owner;
use crate::snapshot::Reservation;

impl Owner {
    /// Puts it on disk, all of it.
    pub(super) async fn pause(&mut self) -> Result<(), TransitionError> {
        transition(self.status(), Event::PauseRequested)?;
        let shallow = self.parts.stay_shallow(&self.host).await;
        shallow.map_err(|source| TransitionError::Failed { step: "pause", source })?;
        self.publish_legal(Event::PauseRequested)?;
        match self.parts.pause(&self.host, &self.spec).await {
            Ok(()) => {
                self.show_guest();
                self.publish(Event::Paused);
                Ok(())
            }
            Err(source) => {
                // Where the monitor is gone that is noticed on its own.
                self.publish(Event::RolledBack);
                Err(TransitionError::Failed { step: "pause", source })
            }
        }
    }

    /// Keeps its disk alone.
    pub(super) async fn stop(&mut self) -> Result<(), TransitionError> {
        let before = self.status();
        self.publish_legal(Event::StopRequested)?;
        let (stopped, undone) = match before {
            Status::Paused => (self.parts.forget_memory(&self.host).await, Event::Paused),
            _ => (self.parts.halt(&self.host, &self.spec).await, Event::RolledBack),
        };
        match stopped {
            Ok(()) => {
                self.show_guest();
                self.publish(Event::Halted);
                Ok(())
            }
            Err(source) => {
                // Where the monitor is gone that is noticed on its own.
                self.publish(undone);
                Err(TransitionError::Failed { step: "stop", source })
            }
        }
    }

    /// From now on the sandbox reaches what this policy lets it. After an error the one before holds.
    pub(super) async fn set_network(&mut self, policy: NetworkPolicy) -> Result<(), NetworkError> {
        self.parts.set_network(&self.host, policy.clone()).await?;
        tracing::info!(sandbox = %self.spec.id, "another network policy holds");
        self.spec.network = policy;
        Ok(())
    }

    /// Captures the sandbox, which is then again what it was. What is left to do needs nothing of it.
    pub(super) async fn capture(&mut self, reservation: Reservation, extent: Extent) -> Result<Capture, CaptureError> {
        if self.status() == Status::Paused {
            return self.parts.capture_paused(&self.host, reservation, extent).await.map_err(CaptureError::Failed);
        }
        transition(self.status(), Event::SnapshotRequested)?;
        self.parts.stay_shallow(&self.host).await.map_err(CaptureError::Failed)?;
        self.publish(Event::SnapshotRequested);
        let captured = self.parts.capture_running(&self.host, &self.spec, reservation, extent).await;
        self.activity.touch();
        self.publish(if captured.is_ok() { Event::Captured } else { Event::RolledBack });
        captured.map_err(CaptureError::Failed)
    }

    /// As [`Self::resume`], unless it was decided too long ago.
    pub(super) async fn resume_of(
        &mut self,
        generation: Generation,
        from: Extent,
    ) -> Result<Result<(), TransitionError>, TransitionError> {
        match (self.parts.hear_of(generation), self.status(), from) {
            (Err(error), ..) => Ok(Err(error)),
            (Ok(()), Status::Stopped, _) => Ok(self.start(Event::StartRequested).await),
            (Ok(()), _, Extent::Disk) => Ok(self.start(Event::ResumeRequested).await),
            (Ok(()), _, Extent::Full) => self.resume().await,
        }
    }

    /// The outer error is for a sandbox that is lost: what it was on disk must not be used any more, and what it became
    /// cannot be kept.
    async fn resume(&mut self) -> Result<Result<(), TransitionError>, TransitionError> {
        if let Err(error) = self.publish_legal(Event::ResumeRequested) {
            return Ok(Err(error));
        }
        let failed = |source| TransitionError::Failed { step: "resume", source };
        let source = match self.parts.resume(&self.host, &self.spec).await {
            Ok(()) => {
                self.become_running();
                return Ok(Ok(()));
            }
            Err(ResumeFailure::Paused(source)) => source,
            Err(ResumeFailure::Unanswered(source)) => match self.parts.pause_again(&self.host).await {
                Ok(()) => source,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(sandbox = %self.spec.id, error, "a resumed guest could not be paused again");
                    return Err(failed(source));
                }
            },
        };
        tracing::warn!(sandbox = %self.spec.id, error = &source as &dyn std::error::Error, "a resume failed");
        self.publish(Event::RolledBack);
        Ok(Err(failed(source)))
    }

    /// Boots a stopped sandbox, or a paused one, from its disk.
    async fn start(&mut self, requested: Event) -> Result<(), TransitionError> {
        self.publish_legal(requested)?;
        match self.parts.start(&self.host, &self.spec).await {
            Ok(()) => {
                self.become_running();
                Ok(())
            }
            Err(source) => {
                let error = &source as &dyn std::error::Error;
                tracing::warn!(sandbox = %self.spec.id, error, "a start failed");
                let has_become_stopped = self.status() == Status::Resuming && !self.parts.keeps_memory();
                self.publish(if has_become_stopped { Event::Halted } else { Event::RolledBack });
                Err(TransitionError::Failed { step: "start", source })
            }
        }
    }
}
