//! What is measured, in the order in which it is: each file measures things that belong together and returns rows.

mod burst;
mod create;
mod exec;
mod fork;
mod idle;
mod pause;

use std::time::Duration;

use super::figures::Figures;
use super::report::{Key, Row};
use crate::cli::session::Session;
use crate::console::output::note;

/// Measures everything. `runs` is for what takes milliseconds.
pub async fn everything(session: &Session, runs: u32, burst: u32) -> anyhow::Result<Vec<Row>> {
    let few = runs.div_ceil(3);
    let mut rows = Vec::new();
    note("cold boots");
    rows.extend(create::boots(session, few).await?);
    note("creates, restored");
    rows.extend(create::restores(session, runs).await?);
    note("creates from the warm pool");
    rows.extend(create::from_pool(session, runs).await?);
    note("commands");
    rows.extend(exec::execs(session, runs).await?);
    note("pauses and resumes");
    rows.extend(pause::pauses(session, runs).await?);
    note("snapshots and forks");
    rows.extend(fork::snapshots(session, runs).await?);
    rows.extend(fork::forks(session, few).await?);
    note("creates in parallel");
    rows.extend(burst::throughput(session, runs).await?);
    note("creates all at once");
    rows.extend(burst::burst(session, burst).await?);
    note("idle sandboxes");
    rows.extend(idle::idle(session, runs).await?);
    Ok(rows)
}

/// A row of times; none where nothing was measured.
fn row(key: Key, times: Vec<Duration>) -> Option<Row> {
    Figures::times(times).map(|figures| Row { key, figures })
}
