//! Measures one sandbox for as long as it is asked to. What the host can see it looks at each second; the guest's
//! memory only the guest knows, and it is asked rarely, so that an idle guest stays idle.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::Status;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::super::View;
use super::cpu::{Cpu, ticks};
use super::{Metrics, Point};
use crate::guest::Guest;

const INTERVAL: Duration = Duration::from_secs(1);
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// A guest that has just begun is not asked before: its first command would have to wait. The first point comes after it.
const MEMORY_DELAY: Duration = Duration::from_millis(900);

/// What is measured.
pub(in crate::sandbox) struct Subject {
    /// The monitor's process.
    pub pid: i32,
    /// Processors that it may fill.
    pub vcpus: u32,
    /// What a guest cannot have more of, whatever it says.
    pub memory_limit: u64,
    /// What the guest writes to.
    pub overlay: PathBuf,
    /// Whom to ask for its memory.
    pub guest: Guest,
}

/// Measures while the sandbox runs. Never ends by itself.
pub(in crate::sandbox) async fn sample(subject: Subject, view: watch::Receiver<View>, metrics: &Metrics) {
    let memory = AtomicU64::new(0);
    tokio::join!(watch_host(&subject, &view, &memory, metrics), watch_memory(&subject, &view, &memory));
}

async fn watch_host(subject: &Subject, view: &watch::Receiver<View>, memory: &AtomicU64, metrics: &Metrics) {
    let mut cpu = Cpu::default();
    let mut clock = interval(INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if !is_running(view) {
            cpu.forget();
            continue;
        }
        let Some((used, disk_bytes)) = look(subject.pid, &subject.overlay).await else { continue };
        if let Some(cpu_percent) = cpu.used_since_last(Instant::now().into_std(), used, subject.vcpus) {
            let memory_bytes = memory.load(Ordering::Relaxed);
            metrics.add(Point { timestamp: unix_seconds(), cpu_percent, memory_bytes, disk_bytes });
        }
    }
}

async fn watch_memory(subject: &Subject, view: &watch::Receiver<View>, memory: &AtomicU64) {
    let mut clock = interval_at(Instant::now() + MEMORY_DELAY, MEMORY_INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        if !is_running(view) {
            continue;
        }
        // One that does not say leaves the last figure standing.
        if let Ok(bytes) = subject.guest.memory_used().await {
            memory.store(bytes.min(subject.memory_limit), Ordering::Relaxed);
        }
    }
}

fn is_running(view: &watch::Receiver<View>) -> bool {
    view.borrow().status == Status::Running
}

/// Processor time so far, and the room that the overlay takes. None where either is gone.
async fn look(pid: i32, overlay: &Path) -> Option<(u64, u64)> {
    let overlay = overlay.to_owned();
    let look = move || -> io::Result<_> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok((ticks(&stat), std::fs::metadata(&overlay)?.blocks() * 512))
    };
    let (used, disk_bytes) = tokio::task::spawn_blocking(look).await.ok()?.ok()?;
    Some((used?, disk_bytes))
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX))
}
