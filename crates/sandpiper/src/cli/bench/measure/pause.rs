//! Pauses to disk and resumes, with fresh memory each time.

use std::time::Instant;

use client::{SandboxId, Start};

use super::row;
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;

/// Leaves 40 MB in memory that no earlier pause has written.
const DIRTY: &str = "head -c 40000000 /dev/urandom > /dev/shm/dirty";

/// The first pause of several sandboxes, then many pauses of one.
pub async fn pauses(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let mut first = Vec::new();
    for _ in 0..runs.div_ceil(3) {
        let (sandbox, _) = session.create(Start::Auto).await?;
        first.push(pause(session, &sandbox.id).await?);
        session.remove([sandbox.id]).await?;
    }
    let (sandbox, _) = session.create(Start::Auto).await?;
    pause(session, &sandbox.id).await?;
    let (mut later, mut resumes, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let begun = Instant::now();
        session.client.resume(&sandbox.id).await?;
        resumes.push(begun.elapsed());
        session.exec(&sandbox.id, "/bin/echo", &["hello"]).await?;
        outputs.push(begun.elapsed());
        later.push(pause(session, &sandbox.id).await?);
    }
    session.remove([sandbox.id]).await?;
    let rows = [
        row(Key::FirstPause, first),
        row(Key::LaterPause, later),
        row(Key::Resume, resumes),
        row(Key::ResumeToOutput, outputs),
    ];
    Ok(rows.into_iter().flatten().collect())
}

async fn pause(session: &Session, sandbox: &SandboxId) -> anyhow::Result<std::time::Duration> {
    session.exec(sandbox, "/bin/sh", &["-c", DIRTY]).await?;
    let begun = Instant::now();
    session.client.pause(sandbox).await?;
    Ok(begun.elapsed())
}
