//! The guest agent: PID 1 inside every sandbox. Starts processes, reads and writes files, and answers the host.
//!
//! Run by anything but the kernel it just serves, which is how its tests use it.

mod auth;
mod benchmark;
mod files;
mod init;
mod log;
mod process;
mod service;
mod settings;
mod users;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::net::TcpListener;

use crate::init::network;
use crate::process::Processes;
use crate::process::reaper::Reaper;
use crate::service::Agent;

/// The port of the wire contract.
const PORT: u16 = 49983;
/// Where the host speaks with the agent alone.
const DIRECT_PORT: u16 = 49982;
/// Where the host is joined to services that listen on loopback alone.
const LOCAL_PORT: u16 = 49981;
/// Each process has a thread that follows it, so this is how many can run beside what else takes its time.
const THREADS: usize = 16 * 1024;
/// A thread that has nothing to do stays for so long: a captured system's first command then finds one.
const KEEP_THREADS: Duration = Duration::from_secs(60);
const USAGE: &str = "usage: guest-agent [--listen ADDR:PORT] [--listen-direct ADDR:PORT] [--listen-local ADDR:PORT] \
                     [--control-peer IP]";
/// Exit code for arguments that make no sense.
const USAGE_ERROR: u8 = 64;

/// Whether the system is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// PID 1 of a sandbox: names the system, sets its clock, ends it.
    Init,
    /// A program among others.
    Service,
}

/// What to do.
enum Mission {
    /// Serve at these addresses, and answer control requests of that peer.
    Serve(Addresses),
    /// Time the start of a program.
    Benchmark { count: usize, cmd: String },
}

/// Where the agent serves, and whom it obeys.
struct Addresses {
    listen: SocketAddr,
    direct: SocketAddr,
    local: SocketAddr,
    control_peer: IpAddr,
}

fn main() -> ExitCode {
    let at = |port: u16| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let control_peer = IpAddr::V4(network::HOST);
    let (listen, direct, local) = (at(PORT), at(DIRECT_PORT), at(LOCAL_PORT));
    let mission = Mission::Serve(Addresses { listen, direct, local, control_peer });
    if std::process::id() == 1 {
        // The kernel passes what it did not understand of its command line as arguments; they are not for us.
        init::power_off_after(|| init::prepare().map_err(Into::into).and_then(|()| fulfil(mission, Role::Init)));
    }
    let Some(mission) = parse(mission, std::env::args().skip(1)) else {
        log::line(USAGE);
        return ExitCode::from(USAGE_ERROR);
    };
    match fulfil(mission, Role::Service) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(log::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn parse(default: Mission, mut args: impl Iterator<Item = String>) -> Option<Mission> {
    let mut mission = default;
    while let Some(arg) = args.next() {
        match (arg.as_str(), &mut mission) {
            ("--listen", Mission::Serve(at)) => at.listen = args.next()?.parse().ok()?,
            ("--listen-direct", Mission::Serve(at)) => at.direct = args.next()?.parse().ok()?,
            ("--listen-local", Mission::Serve(at)) => at.local = args.next()?.parse().ok()?,
            ("--control-peer", Mission::Serve(at)) => at.control_peer = args.next()?.parse().ok()?,
            ("benchmark", _) => {
                let count = args.next()?.parse().ok().filter(|count| *count > 0)?;
                mission = Mission::Benchmark { count, cmd: args.next()? };
            }
            _ => return None,
        }
    }
    Some(mission)
}

fn fulfil(mission: Mission, role: Role) -> Result<(), Box<dyn Error>> {
    match mission {
        Mission::Benchmark { count, cmd } => Ok(benchmark::run(count, &cmd)?),
        Mission::Serve(addresses) => {
            rustix::process::umask(Mode::from_raw_mode(0o022));
            // One thread serves: between the few requests of one sandbox, hand-overs would only cost. What may block
            // has threads of its own.
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.on_thread_start(process::block_signals).thread_keep_alive(KEEP_THREADS);
            let runtime = runtime.max_blocking_threads(THREADS).enable_all().build()?;
            let served = runtime.block_on(serve(addresses, role));
            // Threads that follow processes are not waited for.
            runtime.shutdown_background();
            served
        }
    }
}

/// Returns only when the system is to end.
async fn serve(addresses: Addresses, role: Role) -> Result<(), Box<dyn Error>> {
    let Addresses { listen, direct, local, control_peer } = addresses;
    let reaper = Reaper::default();
    reaper.start()?;
    let agent = Arc::new(Agent::new(Processes::new(reaper.clone()), control_peer, role));
    let direct = service::direct::listen(direct, agent.clone())?;
    let (listener, local) = (TcpListener::bind(listen).await?, TcpListener::bind(local).await?);
    let (listen, local_at) = (listener.local_addr()?, local.local_addr()?);
    let own_ports = [listen.port(), direct.port(), local_at.port()];
    log::line(format_args!("direct at {direct}"));
    log::line(format_args!("joins at {local_at}"));
    log::line(format_args!("listening on {listen}"));
    log::line("guest agent ready");
    let end = async {
        agent.shutdown.notified().await;
        init::power::end_processes(&reaper).await;
    };
    tokio::select! {
        result = service::serve(listener, agent.clone()) => result?,
        () = service::local::serve(local, control_peer, own_ports) => {}
        () = end => {}
    }
    Ok(())
}
