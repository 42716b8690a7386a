//! A sandbox that lives as long as one of our commands. It is removed on every way out: success, failure, signals,
//! also a signal that comes while it is being made.

use anyhow::Context as _;
use client::{Client, CreateSandbox, Sandbox, SandboxId};

use super::failure::warn;
use super::output::note;
use super::signals::{Ended, Signals};

/// Makes a sandbox, does `work` with it and removes it.
pub async fn with_sandbox<T>(
    client: &Client,
    wish: &CreateSandbox,
    signals: &mut Signals,
    work: impl AsyncFnOnce(&Sandbox, &mut Signals) -> anyhow::Result<Ended<T>>,
) -> anyhow::Result<Ended<T>> {
    let sandbox = match create(client, wish, signals).await? {
        Ended::Done(sandbox) => sandbox,
        Ended::Interrupted(interrupt) => return Ok(Ended::Interrupted(interrupt)),
    };
    let result = work(&sandbox, signals).await;
    match (result, remove(client, &sandbox.id, signals).await) {
        (result, Ok(())) => result,
        (Ok(_), Err(error)) => Err(error),
        (Err(first), Err(second)) => {
            warn(&second);
            Err(first)
        }
    }
}

/// The server finishes a creation whether we wait or not, so an interrupted one is waited for and then removed.
async fn create(client: &Client, wish: &CreateSandbox, signals: &mut Signals) -> anyhow::Result<Ended<Sandbox>> {
    let mut creation = std::pin::pin!(client.create(wish));
    let interrupt = tokio::select! {
        made = &mut creation => return Ok(Ended::Done(made?)),
        interrupt = signals.next() => interrupt,
    };
    note("interrupted: removing the sandbox as soon as it is made (once more to leave it)");
    let made = tokio::select! {
        made = creation => made,
        again = signals.next() => {
            note("a sandbox may be left: see `sandpiper sandbox ls`");
            return Ok(Ended::Interrupted(again));
        }
    };
    if let Ok(sandbox) = made {
        remove(client, &sandbox.id, signals).await?;
    }
    Ok(Ended::Interrupted(interrupt))
}

async fn remove(client: &Client, id: &SandboxId, signals: &mut Signals) -> anyhow::Result<()> {
    // One more signal is an impatient finger and changes nothing; a second one is meant.
    let meant = async {
        signals.next().await;
        signals.next().await
    };
    tokio::select! {
        removed = client.delete(id) => {
            removed.with_context(|| format!("{id} is not removed; try again with `sandpiper sandbox rm {id}`"))
        }
        _ = meant => anyhow::bail!("{id} may not be removed; try again with `sandpiper sandbox rm {id}`"),
    }
}
