//! The shortest command, through the API and inside the guest.

use std::time::Duration;

use client::{SandboxId, Start};

use super::row;
use crate::cli::bench::figures::Figures;
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;

/// The smallest program there is: what it costs is the way to it.
const PROGRAM: &str = "/bin/true";

/// Before the measured ones: a new guest reads programs from its disk and, under emulation, has its code translated on
/// first use; neither side is measured with that.
const UNCOUNTED: u32 = 20;

/// Runs of each side, for each run that was asked for: they are short.
const REPEATS: u32 = 5;

/// Starts and awaits it many times.
pub async fn execs(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let (sandbox, _) = session.create(Start::Auto).await?;
    several(session, &sandbox.id, UNCOUNTED).await?;
    let times = several(session, &sandbox.id, runs * REPEATS).await?;
    let guest = session.client.spawn_benchmark(&sandbox.id).await?;
    session.remove([sandbox.id]).await?;
    let median = Duration::from_micros(guest.median_us);
    let inside = Figures::times([median]).map(|figures| Figures {
        runs: guest.count as usize,
        min: super::super::figures::milliseconds(Duration::from_micros(guest.min_us)),
        ..figures
    });
    let inside = inside.map(|figures| Row { key: Key::ExecInGuest, figures });
    Ok([row(Key::Exec, times), inside].into_iter().flatten().collect())
}

async fn several(session: &Session, sandbox: &SandboxId, count: u32) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..count {
        times.push(session.exec(sandbox, PROGRAM, &[]).await?);
    }
    Ok(times)
}
