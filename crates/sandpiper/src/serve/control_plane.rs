//! `sandpiper control-plane`: the REST API alone, with a host agent elsewhere.

use std::process::ExitCode;

use anyhow::Context;
use control_plane::{Config, ControlPlane, HostAgentAddress, StoreUrl};
use tokio_util::sync::CancellationToken;

use super::{ControlPlaneArgs, ReconcileArgs, ServiceArgs, listen};
use crate::console::output;
use crate::console::{BadConfig, Signals};

/// Runs the control plane until a signal.
pub async fn control_plane(args: &ControlPlaneArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let host_agent = args.host_agent.parse().context("--host-agent is no address").context(BadConfig)?;
    let store = args.database.store(&args.data_dir)?;
    let listener = listen::api(&args.api, &store).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    let plane = open(store, HostAgentAddress::Http(host_agent), &args.reconcile, &args.service).await?;
    let shutdown = CancellationToken::new();
    output::note(format_args!("the control plane is ready at http://{address}"));
    let running = plane.run(listener, shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        _ = signals.next() => shutdown.cancel(),
    }
    tokio::select! {
        ended = running => ended.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        interrupt = signals.next() => Ok(interrupt.exit_code()),
    }
}

/// Opens the control plane.
pub async fn open(
    store: StoreUrl,
    host_agent: HostAgentAddress,
    reconcile: &ReconcileArgs,
    service: &ServiceArgs,
) -> anyhow::Result<ControlPlane> {
    let mut config = Config::new(store, host_agent);
    reconcile.apply(&mut config);
    service.apply(&mut config);
    ControlPlane::open(config).await.context("the control plane cannot start")
}
