//! `bench`: how quick a server is, as its users see it, set against what its machine can do at best.
//!
//! Everything goes through the REST API, one thing after another unless it says otherwise, in one run, so that figures
//! can be divided by each other whatever the machine.

mod control_plane;
mod e2b;
mod environment;
mod figures;
mod measure;
mod promises;
mod report;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::report::Report;
use super::output;
use super::server::ServerArgs;
use super::session::Session;
use super::signals::{Ended, Signals};

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "A cold boot starts the template's kernel; it is what everything else is compared with. A restored \
    sandbox goes on from the image of a booted one; one from the warm pool was restored beforehand. Commands are \
    measured in a guest that has run a few: under emulation code is translated on first use. Pauses are durable when \
    they are answered, with 40 MB of fresh memory each. Every sandbox and snapshot of the benchmark is removed, also \
    after Ctrl-C."
)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<BenchCommand>,
    /// How often quick things are measured; slow ones are measured a third as often
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Sandboxes that are created at once
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    burst: u32,
    /// Template of the sandboxes
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    template: String,
    /// Compare with what is promised and fail if a promise is not kept
    #[arg(long)]
    check: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Measure a control plane alone, with many records and simulated hosts
    ControlPlane(control_plane::ControlPlaneBenchArgs),
    /// Measure a server through E2B's published SDKs
    E2b(e2b::E2bBenchArgs),
}

/// Measures and prints.
pub async fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    match &args.other {
        Some(BenchCommand::ControlPlane(args)) => return control_plane::run(args).await,
        Some(BenchCommand::E2b(args)) => return e2b::run(args).await,
        None => {}
    }
    let client = args.server.client()?;
    let mut signals = Signals::listen()?;
    let environment = environment::read(&client.health().await?);
    let session = Session::new(client, &args.template, "benchmark");
    let measured = tokio::select! {
        rows = measure::everything(&session, args.runs, args.burst) => rows.map(Ended::Done),
        interrupt = signals.next() => Ok(Ended::Interrupted(interrupt)),
    };
    session.remove_everything().await?;
    let report = match measured? {
        Ended::Done(rows) => Report::new(&args.template, rows, environment),
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    if args.json {
        output::json(&report)?
    } else {
        report.print(args.check)?
    }
    let broken = args.check && report.promises.iter().any(|promise| !promise.is_kept());
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
