//! `bench control-plane`: how quick the control plane itself is, with many records and no machines.
//!
//! Database, API, RPC and reconciler are the real ones; only host agents are made up. The load comes from a thread with
//! a runtime of its own, so that it does not stand in the server's queue, but from the same machine.

mod hosts;
mod load;
mod report;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use control_plane::{Config, ControlPlane, HostAgentAddress, Keys, SimulatedHost, Simulation, StoreUrl, TokenKey};
use model::{HostId, OwnerId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::hosts::FakeHost;
use self::load::Target;
use self::report::{ClosedLoop, List, OpenLoop, Pass, Report};
use super::environment::Machine;
use crate::console::Ended;
use crate::console::Signals;
use crate::console::output;

/// Rows of a page of the list.
const PAGE: usize = 100;
/// Repetitions of what is measured one after another.
const PAGES: usize = 200;
const LISTS: usize = 20;
const PASSES: usize = 5;
/// Connections of the closed loop: more than enough to keep two cores busy.
const CONNECTIONS: usize = 16;
/// What a pass over a tenth of the hosts takes shows whether its cost grows with the rows.
const SMALL: usize = 10;

/// Flags of `bench control-plane`.
#[derive(Debug, Args)]
#[command(after_help = "Needs no server, no templates and no root. The database must be empty, and is empty again \
    afterwards. Latencies at a rate are counted from the moment at which a request was due.")]
pub struct ControlPlaneBenchArgs {
    /// Empty database, as postgres://USER:PASSWORD@HOST/NAME or sqlite:FILE. By default a temporary file
    #[arg(long, env = "SANDPIPER_BENCH_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<StoreUrl>,
    /// Sandboxes in the records
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    sandboxes: u32,
    /// Hosts that they are on
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=1000))]
    hosts: u32,
    /// Requests a second that come whether or not earlier ones were answered
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seconds for which requests are sent at that rate, and again as fast as they are answered
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub async fn run(args: &ControlPlaneBenchArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
    let store = args.store.clone().unwrap_or_else(|| StoreUrl::Sqlite(directory.path().join("bench.db")));
    let simulation = Simulation::open(&store).await?;
    let measured = tokio::select! {
        report = measure(args, &store, &simulation, directory.path()) => report.map(Ended::Done),
        interrupt = signals.next() => Ok(Ended::Interrupted(interrupt)),
    };
    simulation.remove().await.context("the database still holds what was made for the benchmark")?;
    match measured? {
        Ended::Done(report) if args.json => output::json(&report)?,
        Ended::Done(report) => report.print()?,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    args: &ControlPlaneBenchArgs,
    store: &StoreUrl,
    simulation: &Simulation,
    directory: &Path,
) -> anyhow::Result<Report> {
    let owner: OwnerId = "bench".parse().context("name the owner")?;
    let hosts = fill(args, simulation, &owner).await?;
    let answering = answer(&hosts, directory)?;
    let passes = passes(simulation, &hosts, &answering).await?;

    let keys = Keys::open(store).await?;
    let (_, key) = keys.create("bench", Some(owner)).await?;
    keys.close().await;
    // The one host that the control plane itself calls has nothing.
    let own = FakeHost::answer(directory.join("own.sock"), &[])?;
    let server = Server::start(Config::new(store.clone(), TokenKey::random(), own.address())).await?;
    let target = Target { address: server.address, key };
    let measured = requests(args, &target, &hosts).await;
    server.stop().await?;
    let (get, page, whole, closed) = measured?;
    Ok(Report {
        store: simulation.engine().await?,
        sandboxes: args.sandboxes as usize,
        hosts: args.hosts as usize,
        get,
        list_page: page,
        list_whole: whole,
        closed_loop: closed,
        passes,
        machine: Machine::read(),
    })
}

/// Spreads the sandboxes over the hosts.
async fn fill(
    args: &ControlPlaneBenchArgs,
    simulation: &Simulation,
    owner: &OwnerId,
) -> anyhow::Result<Vec<SimulatedHost>> {
    let (sandboxes, hosts) = (args.sandboxes as usize, args.hosts as usize);
    let mut filled = Vec::with_capacity(hosts);
    for number in 0..hosts {
        let id: HostId = format!("bench-{number}").parse().context("name a host")?;
        // Those before it have taken their part of what does not divide.
        let share = sandboxes * (number + 1) / hosts - sandboxes * number / hosts;
        filled.push(simulation.add_host(id, owner, share).await?);
    }
    simulation.settle().await?;
    Ok(filled)
}

fn answer(hosts: &[SimulatedHost], directory: &Path) -> anyhow::Result<Vec<FakeHost>> {
    let answer = |host: &SimulatedHost| FakeHost::answer(directory.join(format!("{}.sock", host.id)), &host.sandboxes);
    hosts.iter().map(answer).collect()
}

async fn passes(simulation: &Simulation, hosts: &[SimulatedHost], answering: &[FakeHost]) -> anyhow::Result<Vec<Pass>> {
    let addresses: Vec<(HostId, HostAgentAddress)> =
        hosts.iter().zip(answering).map(|(host, fake)| (host.id.clone(), fake.address())).collect();
    let mut measured = Vec::new();
    for some in [&addresses[..addresses.len() / SMALL], &addresses] {
        let mut passes = simulation.passes(some);
        // The first one connects.
        let mut rows = passes.run().await?;
        let mut times = Vec::with_capacity(PASSES);
        for _ in 0..PASSES {
            let start = Instant::now();
            rows = passes.run().await?;
            times.push(start.elapsed());
        }
        measured.push(Pass::new(some.len(), rows, times));
    }
    Ok(measured)
}

async fn requests(
    args: &ControlPlaneBenchArgs,
    target: &Target,
    hosts: &[SimulatedHost],
) -> anyhow::Result<(OpenLoop, Option<List>, List, ClosedLoop)> {
    let one = |id| format!("/v1/sandboxes/{id}");
    let paths: Vec<String> = hosts.iter().flat_map(|host| &host.sandboxes).map(one).collect();
    // Neighbours in the table do not follow each other.
    let paths: Vec<String> = (0..paths.len()).map(|number| paths[number * 7919 % paths.len()].clone()).collect();
    let duration = Duration::from_secs(args.seconds.into());
    // Connections, prepared statements and caches are there before anything counts.
    target.closed_loop(CONNECTIONS, duration.min(Duration::from_secs(2)), &paths).await?;
    let get = target.open_loop(args.rate, duration, &paths).await?;
    let closed = target.closed_loop(CONNECTIONS, duration, &paths).await?;
    let page = format!("/v1/sandboxes?limit={PAGE}");
    // A server that has no pages answers with all there is: that is no figure of a page.
    let has_pages = target.list(1, &page).await?.rows == PAGE;
    let page = if has_pages { Some(target.list(PAGES, &page).await?) } else { None };
    let whole = target.list(LISTS, "/v1/sandboxes").await?;
    if whole.rows != args.sandboxes as usize {
        bail!("the list has {} sandboxes instead of {}", whole.rows, args.sandboxes);
    }
    Ok((get, page, whole, closed))
}

/// A control plane in this process.
struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), control_plane::RunError>>,
}

impl Server {
    async fn start(config: Config) -> anyhow::Result<Self> {
        let plane = ControlPlane::open(config).await.context("the control plane cannot start")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot listen on loopback")?;
        let address = listener.local_addr().context("cannot tell the listen address")?;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(plane.run(listener, None, shutdown.clone()));
        Ok(Self { address, shutdown, serving })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        Ok(self.serving.await.context("the control plane ended")??)
    }
}
