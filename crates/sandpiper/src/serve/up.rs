//! `sandpiper up`: control plane and host agent in one process, speaking to each other as they would over a network.

use std::process::ExitCode;

use ::control_plane::HostAgentAddress;
use ::host_agent::service::{Listener, serve};
use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{UpArgs, control_plane, host_agent, listen};
use crate::cli::output;
use crate::cli::{Ended, Signals};

/// Runs both until a signal.
pub async fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let store = args.database.store(&args.host.data_dir)?;
    let listener = listen::api(&args.api, &store).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    let agent = match host_agent::start(&args.host, &mut signals).await? {
        Ended::Done(agent) => agent,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let (socket, path) = listen::unix(&args.host.data_dir)?;
    let (stop_api, stop_host) = (CancellationToken::new(), CancellationToken::new());
    let mut serving_host = tokio::spawn(serve(agent.clone(), Listener::Unix(socket), stop_host.clone()));
    let plane = control_plane::open(store, HostAgentAddress::Unix(path), &args.reconcile).await?;
    let mut serving_api = tokio::spawn(plane.run(listener, stop_api.clone()));

    let vmm = agent.host.vmm.info();
    output::note(format_args!("sandpiper is ready at http://{address} ({}, {})", vmm.version, vmm.accelerator));
    let ended = tokio::select! {
        _ = signals.next() => Ok(()),
        ended = &mut serving_api => ended.context("the REST API ended")?.context("the REST API ended"),
        ended = &mut serving_host => ended.context("the host agent's service ended")?.context("the host agent ended"),
    };
    output::note(format_args!("stopping: sandboxes are deleted (once more to stop at once)"));
    let down = async {
        stop_api.cancel();
        // Sandboxes go while requests drain: what waits for one of them hears that it is gone.
        let stopped = host_agent::stop(&agent).await;
        if !serving_api.is_finished() {
            let _ = serving_api.await;
        }
        stop_host.cancel();
        stopped
    };
    tokio::select! {
        stopped = down => stopped?,
        interrupt = signals.next() => return Ok(interrupt.exit_code()),
    }
    ended.map(|()| ExitCode::SUCCESS)
}
