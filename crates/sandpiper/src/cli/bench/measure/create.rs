//! Creates, by how the sandbox comes to be.

use std::time::Duration;

use client::{Sandbox, Start};

use super::row;
use crate::cli::bench::report::{Key, Row};
use crate::cli::session::Session;
use crate::console::output::note;

/// Until a pool has had time to fill itself again.
const REFILL: Duration = Duration::from_millis(2500);

/// The least that a command with output does.
const HELLO: (&str, &[&str]) = ("/bin/echo", &["hello"]);

/// Boots the template's kernel each time.
pub async fn boots(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let mut boots = Vec::new();
    for _ in 0..runs {
        let (sandbox, time) = session.create(Start::Boot).await?;
        boots.push(time);
        session.remove([sandbox.id]).await?;
    }
    Ok(row(Key::Boot, boots).into_iter().collect())
}

/// Restores each time, from an image that is there.
pub async fn restores(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    // The first one may have to bake it.
    let (first, _) = session.create(Start::Restore).await?;
    session.remove([first.id]).await?;
    let (mut monitors, mut running, mut output) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let (sandbox, time) = session.create(Start::Restore).await?;
        output.push(time + session.exec(&sandbox.id, HELLO.0, HELLO.1).await?);
        running.push(time);
        monitors.push(Duration::from_micros(session.client.footprint(&sandbox.id).await?.monitor_start_us));
        session.remove([sandbox.id]).await?;
    }
    let rows = [row(Key::MonitorStart, monitors), row(Key::Restore, running), row(Key::RestoreToOutput, output)];
    Ok(rows.into_iter().flatten().collect())
}

/// Takes from the warm pool each time, which is given time to fill itself. Creates that it had nothing for do not count.
pub async fn from_pool(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let (mut running, mut output) = (Vec::new(), Vec::new());
    let wanted = runs as usize;
    let tries = 2 * wanted + 10;
    for _ in 0..tries {
        if running.len() == wanted {
            break;
        }
        tokio::time::sleep(REFILL).await;
        let (sandbox, time) = session.create(Start::Auto).await?;
        let time_to_output = time + session.exec(&sandbox.id, HELLO.0, HELLO.1).await?;
        if came_from_pool(session, &sandbox).await? {
            running.push(time);
            output.push(time_to_output);
        }
        session.remove([sandbox.id]).await?;
    }
    if running.len() < wanted {
        note(format_args!("the warm pool had a sandbox for {} of {tries} creates", running.len()));
    }
    Ok([row(Key::Pool, running), row(Key::PoolToOutput, output)].into_iter().flatten().collect())
}

async fn came_from_pool(session: &Session, sandbox: &Sandbox) -> anyhow::Result<bool> {
    Ok(session.client.footprint(&sandbox.id).await?.start == "pool")
}
