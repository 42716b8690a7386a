//! Whether a sandbox is in use, and since when it is not. Expiry is decided here, once: either a use begins first and
//! the sandbox lives, or it expires first and no use can begin.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The use of one sandbox.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Uses that have begun and not ended.
    open: usize,
    /// When a use last began or ended; for the timer.
    last: Instant,
    /// The same moment on the wall clock; for people.
    last_wall: SystemTime,
    has_expired: bool,
}

/// A use. It ends when this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

/// What a timer is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// No use can begin any more.
    Expired,
    /// Look again then.
    NotBefore(Instant),
}

impl Activity {
    /// Begins with a use that has just ended.
    pub fn new() -> Arc<Self> {
        let state = State { open: 0, last: Instant::now(), last_wall: SystemTime::now(), has_expired: false };
        Arc::new(Self(Mutex::new(state)))
    }

    /// Begins a use, unless the sandbox has expired.
    pub fn begin(self: &Arc<Self>) -> Option<Busy> {
        let mut state = self.state();
        if state.has_expired {
            return None;
        }
        state.open += 1;
        state.touch();
        Some(Busy(self.clone()))
    }

    /// Counts as a use that begins and ends at once.
    pub fn touch(&self) {
        self.state().touch();
    }

    /// As [`Self::touch`], and uses can begin again after it has expired.
    pub fn renew(&self) {
        let mut state = self.state();
        state.has_expired = false;
        state.touch();
    }

    /// When a use last began or ended.
    pub fn last(&self) -> SystemTime {
        self.state().last_wall
    }

    /// Expires the sandbox if it has not been used for `idle`.
    pub fn expire(&self, idle: Duration) -> Expiry {
        let mut state = self.state();
        let now = Instant::now();
        let due = if state.open > 0 { now + idle } else { state.last + idle };
        if due > now {
            return Expiry::NotBefore(due);
        }
        state.has_expired = true;
        Expiry::Expired
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self) {
        self.last = Instant::now();
        self.last_wall = SystemTime::now();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open -= 1;
        state.touch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_expires_only_after_its_last_use_has_ended() {
        let activity = Activity::new();
        let busy = activity.begin().unwrap();
        tokio::time::advance(IDLE * 10).await;
        assert_eq!(activity.expire(IDLE), Expiry::NotBefore(Instant::now() + IDLE), "in use");
        drop(busy);
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        assert_eq!(activity.expire(IDLE), Expiry::NotBefore(Instant::now() + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(activity.expire(IDLE), Expiry::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn no_use_begins_after_expiry() {
        let activity = Activity::new();
        tokio::time::advance(IDLE).await;
        assert_eq!(activity.expire(IDLE), Expiry::Expired);
        assert!(activity.begin().is_none());
        activity.renew();
        assert_eq!(activity.expire(IDLE), Expiry::NotBefore(Instant::now() + IDLE));
        assert!(activity.begin().is_some(), "it was paused and is resumed");
    }
}
