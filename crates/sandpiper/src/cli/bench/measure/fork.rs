//! Snapshots and forks of a running sandbox.

use std::time::Duration;

use client::{SandboxId, Start};

use super::row;
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;

/// Captures, each removed again.
pub async fn snapshots(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let (sandbox, _) = session.create(Start::Auto).await?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let (snapshot, time) = session.snapshot(&sandbox.id).await?;
        times.push(time);
        session.remove_snapshot(&snapshot.name).await?;
    }
    session.remove([sandbox.id]).await?;
    Ok(row(Key::Snapshot, times).into_iter().collect())
}

/// One child, and ten at once.
pub async fn forks(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let (sandbox, _) = session.create(Start::Auto).await?;
    let one = fork(session, &sandbox.id, 1, runs).await?;
    let ten = fork(session, &sandbox.id, 10, runs).await?;
    session.remove([sandbox.id]).await?;
    Ok([row(Key::ForkOne, one), row(Key::ForkTen, ten)].into_iter().flatten().collect())
}

async fn fork(session: &Session, parent: &SandboxId, count: u32, runs: u32) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let (children, time) = session.fork(parent, count).await?;
        times.push(time);
        session.remove(children.into_iter().map(|child| child.id)).await?;
    }
    Ok(times)
}
