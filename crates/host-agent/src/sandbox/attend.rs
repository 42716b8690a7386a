//! What goes on beside a sandbox that runs, and changes nothing of its state: measuring it, and keeping its clock.

use std::sync::Arc;
use std::time::Duration;

use model::Status;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::View;
use super::metrics::{Metrics, Subject, sample};
use crate::guest::Guest;

/// How often a guest is told the time. Clocks of machines drift by some milliseconds in it.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);

/// Attends to a sandbox. Never ends by itself: it is dropped with the virtual machine.
pub(super) async fn attend(subject: Subject, view: watch::Receiver<View>, metrics: Arc<Metrics>) {
    let guest = subject.guest.clone();
    let clock = keep_clock(&guest, view.clone());
    tokio::join!(sample(subject, view, &metrics), clock);
}

async fn keep_clock(guest: &Guest, view: watch::Receiver<View>) {
    let mut minutes = interval_at(Instant::now() + CLOCK_INTERVAL, CLOCK_INTERVAL);
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        minutes.tick().await;
        let is_running = view.borrow().status == Status::Running;
        if is_running {
            tell_time(guest).await;
        }
    }
}

/// A guest that does not want to know is left with its own time.
async fn tell_time(guest: &Guest) {
    if let Err(error) = guest.set_clock().await {
        tracing::debug!(error = &error as &dyn std::error::Error, "a guest was not told the time");
    }
}
