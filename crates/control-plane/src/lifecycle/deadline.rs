//! Sandboxes whose time is over at a point in time, used or not: what then happens to them, and who sees to it. Hosts know
//! of no such time; a control plane that was away makes up for it when it is back.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use model::{OnExpiry, OwnerId, SandboxId};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Lifecycle, LifecycleError};
use crate::store::{Sandbox, Shift};

/// Why it ended, in its record.
pub(crate) const TIME_OVER: &str = "ttl_expired";

/// What a sandbox gets at least that is woken by its traffic.
pub(super) const WOKEN: Duration = Duration::from_secs(300);

/// How exact the time is.
const LOOK: Duration = Duration::from_millis(250);

/// After what could not be ended.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Sandboxes that are ended at the same time.
const AT_ONCE: usize = 8;

/// The end of a time that begins now.
pub fn after(time: Duration) -> Timestamp {
    Timestamp::now().checked_add(time).unwrap_or(Timestamp::MAX)
}

impl Lifecycle {
    /// Moves the end of a sandbox's time to `time` from now.
    pub async fn set_time(
        &self,
        owner: &OwnerId,
        id: &SandboxId,
        time: Duration,
        shift: Shift,
    ) -> Result<Sandbox, LifecycleError> {
        self.store.set_end(owner, id, after(time), shift).await?.ok_or(LifecycleError::NotFound)
    }

    /// Sees to it that a sandbox has at least so much time left.
    pub(super) async fn give_time(&self, sandbox: &Sandbox, time: Duration) -> Result<Sandbox, LifecycleError> {
        self.set_time(&sandbox.owner, &sandbox.id, time, Shift::Later).await
    }

    /// Ends what is over, and answers whether all of it is.
    async fn end_overdue(&self) -> bool {
        let overdue = match self.store.overdue(Timestamp::now()).await {
            Ok(overdue) => overdue,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "whose time is over cannot be read");
                return false;
            }
        };
        let ended = stream::iter(overdue).map(|seen| self.end_one(seen)).buffer_unordered(AT_ONCE);
        ended.fold(true, async |all, ended| all && ended).await
    }

    async fn end_one(&self, seen: Sandbox) -> bool {
        let id = seen.id.clone();
        let ended = match seen.on_expiry {
            OnExpiry::Pause => self.pause_overdue(seen).await.map(drop),
            OnExpiry::Stop => self.stop_overdue(seen).await.map(drop),
            OnExpiry::Destroy => self.expire(seen, TIME_OVER.to_owned()).await.map(drop),
        };
        match ended {
            Ok(()) => true,
            // Somebody else was quicker, and it is not known what comes of that.
            Err(LifecycleError::Race(_) | LifecycleError::Illegal(_) | LifecycleError::NotFound) => true,
            Err(error) => {
                tracing::warn!(sandbox = %id, error = &error as &dyn std::error::Error, "its time is over and it is still there");
                false
            }
        }
    }
}

/// Ends what is over, for as long as the server runs.
pub async fn keep_deadlines(lifecycle: Lifecycle) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !lifecycle.end_overdue().await {
            sleep(LOOK_AGAIN).await;
        }
    }
}
