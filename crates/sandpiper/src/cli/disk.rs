//! `df` and `prune`: what takes disk space on the host, and removing what need not.

use std::process::ExitCode;

use clap::Args;
use client::{DiskUse, Removed};

use super::output;
use super::server::ServerArgs;

/// Flags of `df`.
#[derive(Debug, Args)]
pub struct DfArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// Shows what takes disk space.
pub async fn df(args: &DfArgs) -> anyhow::Result<ExitCode> {
    let usage = args.server.client()?.disk_usage().await?;
    if args.json {
        output::json(&usage)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::table(["KIND", "ID", "NAME", "ON DISK", "PRUNABLE"], usage.uses.iter().map(use_row))?;
    let used = usage.uses.iter().map(|one| one.bytes).sum();
    output::line(format_args!(
        "{} in use; {} of {} free, {} of it in reserve",
        size(used),
        size(usage.free_bytes),
        size(usage.total_bytes),
        size(usage.reserve_bytes)
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn use_row(one: &DiskUse) -> [String; 5] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let prunable = if one.prunable { "yes" } else { "no" };
    [one.kind.clone(), or_dash(&one.id), or_dash(&one.name), size(one.bytes), prunable.to_owned()]
}

/// Removes what need not be there.
pub async fn prune(args: &PruneArgs) -> anyhow::Result<ExitCode> {
    let pruned = args.server.client()?.prune(args.dry_run).await?;
    if args.json {
        output::json(&pruned)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::table(["KIND", "ID", "NAME", "ON DISK", "WHY"], pruned.removed.iter().map(removed_row))?;
    let bytes = pruned.removed.iter().filter_map(|removed| removed.bytes).sum();
    let done = if pruned.dry_run { "would be removed" } else { "removed" };
    output::line(format_args!("{} {done}", size(bytes)))?;
    Ok(ExitCode::SUCCESS)
}

fn removed_row(removed: &Removed) -> [String; 5] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        removed.kind.clone(),
        removed.id.clone(),
        or_dash(&removed.name),
        removed.bytes.map_or_else(|| "-".to_owned(), size),
        removed.reason.clone().unwrap_or_else(|| "nothing uses it".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_at_a_glance() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (118 << 20, "118 MiB"),
            (9 << 30, "9216 MiB"),
            (20 << 30, "20 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
