//! `sandpiper up`: control plane and host agent in one process, speaking to each other as they would over a network.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ::control_plane::{ControlPlane, HostAgentAddress, RunError, Starting, StoreUrl, TokenKey};
use ::host_agent::HostAgent;
use ::host_agent::service::{Drain, Listener, serve};
use anyhow::{Context, bail};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::domain::OpenDomain;
use super::{UpArgs, control_plane, host_agent, listen};
use crate::console::Signals;
use crate::console::output;

/// Runs both until a signal.
pub async fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let store = args.database.store(&args.host.data_dir)?;
    let token_key = args.token_key.load(&args.host.data_dir)?;
    let listener = listen::api(&args.api, &store).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    let domain = args.domain.open(address, &args.host.data_dir).await?;
    let starting = Starting::answer(&listener).context("cannot answer while starting")?;
    let agent = host_agent::start(&args.host).await?;
    let (stop_api, stop_host) = (CancellationToken::new(), CancellationToken::new());
    let records = (store, token_key);
    let connected = connect(args, records, domain.as_ref(), &agent, &stop_host).await;
    let Parts { plane, mut serving_host, path } = match connected {
        Ok(parts) => parts,
        Err(error) => {
            host_agent::stop(&agent, args.host.on_exit).await?;
            return Err(error);
        }
    };
    starting.stop().await;
    let (https, _renewing) = domain.inspect(OpenDomain::announce).map(OpenDomain::parts).unzip();
    let mut serving_api = tokio::spawn(plane.run(listener, https, stop_api.clone()));
    let vmm = agent.host.vmm.info();
    let ready =
        || output::note(format_args!("sandpiper is ready at http://{address} ({}, {})", vmm.version, vmm.accelerator));
    let ended = tokio::select! {
        ended = host_agent::work(&agent, &args.host.templates, &mut signals, ready) => ended,
        ended = &mut serving_api => api_ended_by_itself(ended),
        ended = &mut serving_host => host_agent::ended_by_itself(ended),
    };
    output::note(format_args!(
        "stopping: requests have {} seconds to end, then {} (once more to stop at once)",
        args.service.drain.drain_sec, args.host.on_exit
    ));
    let down = async {
        stop_api.cancel();
        // Requests first: a command that is under way needs its sandbox.
        if !serving_api.is_finished() {
            let _ = serving_api.await;
        }
        let stopped = host_agent::stop(&agent, args.host.on_exit).await;
        stop_host.cancel();
        // Nobody listens there any more; a leftover would only be replaced by the next start.
        let _ = std::fs::remove_file(&path);
        stopped
    };
    tokio::select! {
        stopped = down => stopped?,
        interrupt = signals.next() => return Ok(interrupt.exit_code()),
    }
    ended
}

fn api_ended_by_itself(ended: Result<Result<(), RunError>, JoinError>) -> anyhow::Result<ExitCode> {
    ended.context("the REST API ended")?.context("the REST API ended")?;
    bail!("the REST API ended");
}

/// Both halves, able to speak to each other.
struct Parts {
    plane: ControlPlane,
    serving_host: JoinHandle<io::Result<()>>,
    /// The socket between them.
    path: PathBuf,
}

async fn connect(
    args: &UpArgs,
    records: (StoreUrl, TokenKey),
    domain: Option<&OpenDomain>,
    agent: &Arc<HostAgent>,
    stop: &CancellationToken,
) -> anyhow::Result<Parts> {
    let (socket, path) = listen::unix(&args.host.data_dir)?;
    let serving_host = tokio::spawn(serve(agent.clone(), Listener::Unix(socket), Drain::default(), stop.clone()));
    let domain = domain.map(|domain| domain.domain.clone());
    let host = HostAgentAddress::Unix(path.clone());
    let plane = control_plane::open(records, host, domain, &args.reconcile, &args.service).await?;
    Ok(Parts { plane, serving_host, path })
}
