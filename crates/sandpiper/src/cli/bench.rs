//! `bench`: how quick a server is, as its users see it. Medians of runs one after another.

mod control_plane;
mod environment;
mod figures;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, Subcommand};
use client::{Client, CreateSandbox, ExecRequest, Sandbox};

use self::figures::{Figures, Report};
use super::output;
use super::server::ServerArgs;
use super::signals::{Ended, Signals};
use super::temporary::with_sandbox;

/// The smallest command there is: what it costs is the way to it.
const COMMAND: &str = "/bin/true";

/// Commands before the measured ones. A new guest reads programs from its disk and, under emulation, has its code
/// translated on first use; neither side is measured with that.
const UNCOUNTED: u32 = 20;

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "Create to ready is the time from asking for a sandbox to the answer that it runs. The first \
    create of a template and shape on a server boots a guest and bakes its image, and stands by itself; the others \
    are restored from that image. Exec is /bin/true through the API in a guest that has run it a few times, set \
    against the same program started and awaited inside the guest. Every sandbox of the benchmark is removed, also \
    after Ctrl-C.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<BenchCommand>,
    /// How often each thing is measured
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Template of the sandboxes
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    template: String,
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
}

/// Measures and prints.
pub async fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(BenchCommand::ControlPlane(args)) = &args.other {
        return control_plane::run(args).await;
    }
    let client = args.server.client()?;
    let mut signals = Signals::listen()?;
    let environment = environment::read(&client.health().await?);
    let first = match creates(&client, args, 1, &mut signals).await? {
        Ended::Done(first) => first,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let creates = match creates(&client, args, args.runs, &mut signals).await? {
        Ended::Done(creates) => creates,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let (exec, guest) = match execs(&client, args, &mut signals).await? {
        Ended::Done(times) => times,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let report = Report::new(&args.template, [first, creates], exec, &guest, environment);
    if args.json {
        output::json(&report)?
    } else {
        report.print()?
    }
    Ok(ExitCode::SUCCESS)
}

/// A sandbox made and removed again, a number of times.
async fn creates(
    client: &Client,
    args: &BenchArgs,
    runs: u32,
    signals: &mut Signals,
) -> anyhow::Result<Ended<Figures>> {
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        let create = with_sandbox(client, &wish(args), signals, async |_, _| Ok(Ended::Done(start.elapsed()))).await?;
        match create {
            Ended::Done(time) => times.push(time),
            Ended::Interrupted(interrupt) => return Ok(Ended::Interrupted(interrupt)),
        }
    }
    Ok(Ended::Done(Figures::of(times)))
}

type ExecTimes = (Figures, client::SpawnBenchmark);

/// Commands in one sandbox, through the API and inside.
async fn execs(client: &Client, args: &BenchArgs, signals: &mut Signals) -> anyhow::Result<Ended<ExecTimes>> {
    with_sandbox(client, &wish(args), signals, async |sandbox, signals| {
        tokio::select! {
            times = measure_execs(client, sandbox, args.runs) => Ok(Ended::Done(times?)),
            interrupt = signals.next() => Ok(Ended::Interrupted(interrupt)),
        }
    })
    .await
}

async fn measure_execs(client: &Client, sandbox: &Sandbox, runs: u32) -> anyhow::Result<ExecTimes> {
    for _ in 0..UNCOUNTED {
        exec_once(client, sandbox).await?;
    }
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(exec_once(client, sandbox).await?);
    }
    Ok((Figures::of(times), client.spawn_benchmark(&sandbox.id).await?))
}

async fn exec_once(client: &Client, sandbox: &Sandbox) -> anyhow::Result<Duration> {
    let command = ExecRequest { cmd: COMMAND.to_owned(), ..ExecRequest::default() };
    let start = Instant::now();
    let output = client.exec(&sandbox.id, &command).await?;
    let time = start.elapsed();
    if output.exit_code != 0 {
        bail!("{COMMAND} ended with {}: {}", output.exit_code, String::from_utf8_lossy(&output.stderr));
    }
    Ok(time)
}

fn wish(args: &BenchArgs) -> CreateSandbox {
    CreateSandbox { template: args.template.clone(), ..CreateSandbox::default() }
}
