//! `snapshot …`: what is kept of sandboxes, one call each.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use client::{SandboxId, Snapshot};

use super::disk::size;
use super::server::ServerArgs;
use super::{failure, output};

/// Subcommands of `snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Keep what a sandbox has in memory and on its disk, and print the snapshot's name
    Create(CreateArgs),
    /// List snapshots, the newest first
    Ls(ListArgs),
    /// Remove snapshots that no sandbox came from any more
    Rm(RemoveArgs),
}

/// Flags of `snapshot create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The sandbox, running or paused; it goes on as it was
    #[arg(value_name = "SANDBOX")]
    sandbox: SandboxId,
    /// What to call the snapshot (default: by its id)
    name: Option<String>,
    /// Print the whole snapshot as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `snapshot ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `snapshot rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The snapshots, by name or id
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Does one of them.
pub async fn run(command: SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Create(args) => create(&args).await,
        SnapshotCommand::Ls(args) => list(&args).await,
        SnapshotCommand::Rm(args) => remove(&args).await,
    }
}

async fn create(args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let snapshot = args.server.client()?.snapshot(&args.sandbox, args.name.as_deref()).await?;
    if args.json {
        output::json(&snapshot)?;
    } else {
        output::line(&snapshot.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let snapshots = args.server.client()?.snapshots().await?;
    if args.json {
        output::json(&snapshots)?;
    } else {
        output::table(
            ["NAME", "STATUS", "TEMPLATE", "MEMORY", "ON DISK", "CREATED", "SANDBOX"],
            snapshots.iter().map(row),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(snapshot: &Snapshot) -> [String; 7] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        snapshot.name.clone(),
        or_dash(&snapshot.status),
        or_dash(&snapshot.template),
        snapshot.memory_mb.map_or_else(|| "-".to_owned(), |memory| format!("{memory} MiB")),
        snapshot.size_bytes.map_or_else(|| "-".to_owned(), size),
        or_dash(&snapshot.created_at),
        or_dash(&snapshot.sandbox_id),
    ]
}

/// Removes each and prints its name; one that cannot be removed does not keep the others from it.
async fn remove(args: &RemoveArgs) -> anyhow::Result<ExitCode> {
    let client = args.server.client()?;
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        match client.delete_snapshot(name).await {
            Ok(()) => output::line(name)?,
            Err(error) => {
                code = failure::report(&anyhow::Error::new(error).context(format!("{name} is not removed")));
            }
        }
    }
    Ok(code)
}
