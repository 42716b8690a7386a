//! Creates, by how the sandbox comes to be.

use std::time::Duration;

use client::Start;

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
    let (mut jails, mut fences) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let (sandbox, time) = session.create(Start::Restore).await?;
        output.push(time + session.exec(&sandbox.id, HELLO.0, HELLO.1).await?);
        running.push(time);
        let footprint = session.client.footprint(&sandbox.id).await?;
        monitors.push(Duration::from_micros(footprint.monitor_start_us));
        jails.push(Duration::from_micros(footprint.jail_us));
        fences.push(Duration::from_micros(footprint.fence_us));
        session.remove([sandbox.id]).await?;
    }
    let both = jails.iter().zip(&fences).map(|(jail, fence)| *jail + *fence).collect();
    let rows = [
        row(Key::MonitorStart, monitors),
        row(Key::Restore, running),
        row(Key::RestoreToOutput, output),
        row(Key::Jail, jails),
        row(Key::Fence, fences),
        row(Key::Confinement, both),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Takes from the warm pool each time, which is given time to fill itself. Creates that it had nothing for do not count.
pub async fn from_pool(session: &Session, runs: u32) -> anyhow::Result<Vec<Row>> {
    let (mut running, mut output, mut confined) = (Vec::new(), Vec::new(), Vec::new());
    let wanted = runs as usize;
    let tries = 2 * wanted + 10;
    for _ in 0..tries {
        if running.len() == wanted {
            break;
        }
        tokio::time::sleep(REFILL).await;
        let (sandbox, time) = session.create(Start::Auto).await?;
        let time_to_output = time + session.exec(&sandbox.id, HELLO.0, HELLO.1).await?;
        let footprint = session.client.footprint(&sandbox.id).await?;
        if footprint.start == "pool" {
            running.push(time);
            output.push(time_to_output);
            confined.push(Duration::from_micros(footprint.jail_us + footprint.fence_us));
        }
        session.remove([sandbox.id]).await?;
    }
    if running.len() < wanted {
        note(format_args!("the warm pool had a sandbox for {} of {tries} creates", running.len()));
    }
    let rows = [row(Key::Pool, running), row(Key::PoolToOutput, output), row(Key::ConfinementPooled, confined)];
    Ok(rows.into_iter().flatten().collect())
}
