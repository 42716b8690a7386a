//! Many creates, some at a time or all at once.

use std::time::{Duration, Instant};

use client::{Sandbox, Start};
use futures::stream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::row;
use crate::cli::bench::figures::{Figures, Unit};
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;
use crate::console::output::note;

/// How many sandboxes a second come to be, by how many are asked for at a time.
pub async fn throughput(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let widths = [(Key::CreatesOneByOne, 1), (Key::CreatesByTwo, 2), (Key::CreatesByFour, 4), (Key::CreatesByEight, 8)];
    let mut rows = Vec::new();
    for (key, width) in widths {
        // As many as there are at a time, twice at least.
        let count = (runs as usize).max(2 * width);
        let begun = Instant::now();
        let creates = stream::iter(0..count).map(|_| session.create(Start::Restore)).buffer_unordered(width);
        let made: Vec<(Sandbox, Duration)> = creates.try_collect().await?;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        session.remove(made.into_iter().map(|(sandbox, _)| sandbox.id)).await?;
        rows.push(Row { key, figures: Figures::single(Unit::PerSecond, rate) });
    }
    Ok(rows)
}

/// As many as asked for, in the same moment, by the ordinary way.
pub async fn burst(session: &Session, count: u32) -> anyhow::Result<Vec<Row>> {
    let creates = (0..count).map(|_| session.create(Start::Auto));
    let (mut times, mut failures) = (Vec::new(), 0_u32);
    for result in futures::future::join_all(creates).await {
        match result {
            Ok((_, time)) => times.push(time),
            Err(error) => {
                failures += 1;
                note(format_args!("{error:#}"));
            }
        }
    }
    session.remove_everything().await?;
    let failures = Row { key: Key::BurstFailures, figures: Figures::single(Unit::Count, failures.into()) };
    Ok(row(Key::Burst, times).into_iter().chain([failures]).collect())
}
