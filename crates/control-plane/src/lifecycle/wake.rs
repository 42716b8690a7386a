//! A sandbox whose guest is needed: what is on its way is waited for, and what is paused is resumed where that was asked
//! for when it was created.

use std::time::Duration;

use jiff::Timestamp;
use model::{AutoResume, OnExpiry, OwnerId, SandboxId, Status};
use tokio::time::{Instant, timeout, timeout_at};

use super::deadline::{TIME_OVER, WOKEN};
use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, EventKind, Sandbox};

/// No pause, resume or capture takes longer.
const PATIENCE: Duration = Duration::from_secs(200);

/// How long traffic waits for a sandbox that is on its way.
const TRAFFIC_PATIENCE: Duration = Duration::from_secs(60);

/// Other processes may change records in the same database.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Lifecycle {
    /// The sandbox, running. Of several that need it at once, one resumes it and the others wait.
    pub async fn awake(&self, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, LifecycleError> {
        let end = Instant::now() + PATIENCE;
        let mut news = self.store.news();
        loop {
            // Seen before the record is read, so that what comes after it is not missed.
            news.mark_unchanged();
            let sandbox = self.store.get(owner, id).await?.ok_or(LifecycleError::NotFound)?;
            let wakes = sandbox.auto_resume == AutoResume::On;
            match sandbox.status {
                Status::Running if !self.has_been_paused(&sandbox).await? => return Ok(sandbox),
                Status::Paused if wakes => match self.wake(&sandbox).await {
                    // Somebody else resumes it, or ended it.
                    Err(LifecycleError::Race(_) | LifecycleError::Illegal(_)) => continue,
                    resumed => return resumed,
                },
                Status::Running | Status::Snapshotting => {}
                Status::Pausing | Status::Resuming if wakes => {}
                _ => return Err(LifecycleError::not_running(&sandbox)),
            }
            if Instant::now() >= end {
                return Err(LifecycleError::not_running(&sandbox));
            }
            // Neither the end of the time nor that of the sender matters: there is another look.
            let _ = timeout(LOOK_AGAIN, news.changed()).await;
        }
    }

    async fn wake(&self, sandbox: &Sandbox) -> Result<Sandbox, LifecycleError> {
        if sandbox.ends_at.is_some() {
            self.give_time(sandbox, WOKEN).await?;
        }
        self.resume(sandbox.owner.clone(), sandbox.id.clone()).await
    }

    /// As [`Self::awake`], for traffic: that names a sandbox and no owner, and waits for one that is being made too. Not
    /// as long, because nobody is told meanwhile.
    pub async fn reachable(&self, id: &SandboxId) -> Result<Sandbox, LifecycleError> {
        let end = Instant::now() + TRAFFIC_PATIENCE;
        let mut news = self.store.news();
        loop {
            news.mark_unchanged();
            let sandbox = self.store.get_of_anyone(id).await?.ok_or(LifecycleError::NotFound)?;
            let late = LifecycleError::not_running(&sandbox);
            match sandbox.status {
                Status::Running | Status::Snapshotting | Status::Paused => {
                    return timeout_at(end, self.awake(&sandbox.owner, id)).await.unwrap_or(Err(late));
                }
                Status::Pending | Status::Pausing | Status::Resuming if Instant::now() < end => {}
                _ => return Err(late),
            }
            let _ = timeout(LOOK_AGAIN, news.changed()).await;
        }
    }

    /// Whether the host has paused a sandbox whose time is over, which its record may not say yet. Only asked where
    /// the answer makes a difference.
    async fn has_been_paused(&self, sandbox: &Sandbox) -> Result<bool, LifecycleError> {
        let wakes = (sandbox.auto_resume, sandbox.on_expiry) == (AutoResume::On, OnExpiry::Pause);
        if !wakes || !sandbox.is_idle(Timestamp::now()) {
            return Ok(false);
        }
        let on_host = self.host.list().await.map_err(LifecycleError::Host)?;
        match on_host.into_iter().find(|other| other.id == sandbox.id).map(|other| other.status) {
            Some(Status::Paused) => {
                let paused = Change::to(Status::Paused).with_action(Action::by_itself(EventKind::Pause, TIME_OVER));
                // Losing this means that somebody knows better by now.
                self.store.update(sandbox, paused).await?;
                Ok(true)
            }
            Some(Status::Pausing) => Ok(true),
            _ => Ok(false),
        }
    }
}
