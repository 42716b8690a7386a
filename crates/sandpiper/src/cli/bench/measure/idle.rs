//! What sandboxes cost that do nothing.

use std::time::{Duration, Instant};

use client::{SandboxId, Start};

use crate::cli::bench::figures::{Figures, Unit};
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;

/// Until what their start has stirred up is over.
const SETTLE: Duration = Duration::from_secs(5);

/// For how long their processor time is counted: a second for each run, within these.
const WINDOW: (u32, u32) = (5, 15);

/// How many there are: one for each run, within these.
const SANDBOXES: (u32, u32) = (2, 10);

/// Memory in the proportional sense: a page that several map counts in parts.
pub async fn idle(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let mut sandboxes = Vec::new();
    for _ in 0..runs.clamp(SANDBOXES.0, SANDBOXES.1) {
        let (sandbox, _) = session.create(Start::Restore).await?;
        session.exec(&sandbox.id, "/bin/true", &[]).await?;
        sandboxes.push(sandbox.id);
    }
    tokio::time::sleep(SETTLE).await;
    let begun = Instant::now();
    let before = footprints(session, &sandboxes).await?;
    tokio::time::sleep(Duration::from_secs(runs.clamp(WINDOW.0, WINDOW.1).into())).await;
    let after = footprints(session, &sandboxes).await?;
    let seconds = begun.elapsed().as_secs_f64();
    session.remove(sandboxes).await?;
    let memory = after.iter().map(|(bytes, _)| *bytes as f64 / 1e6).collect();
    let share = |(before, after): (&(u64, u64), &(u64, u64))| (after.1 - before.1) as f64 / 1e4 / seconds;
    let cpu = before.iter().zip(&after).map(share).collect();
    let memory = Figures::of(Unit::Megabytes, memory).map(|figures| Row { key: Key::MemoryIdle, figures });
    let cpu = Figures::of(Unit::Percent, cpu).map(|figures| Row { key: Key::CpuIdle, figures });
    Ok([memory, cpu].into_iter().flatten().collect())
}

/// Bytes of memory and microseconds of processor time of each.
async fn footprints(session: &Session, sandboxes: &[SandboxId]) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut footprints = Vec::new();
    for id in sandboxes {
        let footprint = session.client.footprint(id).await?;
        footprints.push((footprint.pss_bytes, footprint.cpu_us));
    }
    Ok(footprints)
}
