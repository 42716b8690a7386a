//! A sandbox that runs, for whoever holds a connection to it: what passes is a use, and that it is open is none.

use std::sync::Arc;

use model::Status;
use tokio::sync::watch;

use super::View;
use super::activity::Activity;

/// A sandbox that runs. Cheap to clone; keeps nothing alive.
#[derive(Debug, Clone)]
pub struct Presence {
    activity: Arc<Activity>,
    view: watch::Receiver<View>,
}

impl Presence {
    pub(super) fn new(activity: Arc<Activity>, view: watch::Receiver<View>) -> Self {
        Self { activity, view }
    }

    /// Counts as a use.
    pub fn touch(&self) {
        self.activity.touch();
    }

    /// Returns when the sandbox does not run any more. One that is captured goes on.
    pub async fn ended(mut self) {
        let is_over = |view: &View| !matches!(view.status, Status::Running | Status::Snapshotting);
        // An error means that nothing is left of the sandbox.
        let _ = self.view.wait_for(is_over).await.map(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_capture_is_no_end_and_a_pause_is_one() {
        let (view, receiver) = watch::channel(View { status: Status::Running, host_ip: None, failure: None });
        let ended = tokio::spawn(Presence::new(Activity::new(), receiver).ended());
        for status in [Status::Snapshotting, Status::Running] {
            view.send_modify(|view| view.status = status);
            tokio::task::yield_now().await;
            assert!(!ended.is_finished(), "{status}");
        }
        view.send_modify(|view| view.status = Status::Pausing);
        ended.await.unwrap();
    }
}
