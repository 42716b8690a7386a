//! `sandpiper control-plane`: the REST API alone, with a host agent elsewhere.

use std::process::ExitCode;

use anyhow::Context;
use control_plane::{Config, ControlPlane, Domain, HostAgentAddress, StoreUrl, TokenKey};
use tokio_util::sync::CancellationToken;

use super::domain::OpenDomain;
use super::{ControlPlaneArgs, ReconcileArgs, ServiceArgs, listen};
use crate::console::Signals;
use crate::console::output;

/// Runs the control plane until a signal.
pub async fn control_plane(args: &ControlPlaneArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let host_agent = args.tls.address(&args.host_agent)?;
    let store = args.database.store(&args.data_dir)?;
    let token_key = args.token_key.load(&args.data_dir)?;
    let listener = listen::api(&args.api, &store).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    let domain = args.domain.open(address, &args.data_dir).await?;
    let name = domain.as_ref().map(|domain| domain.domain.clone());
    let plane = open((store, token_key), host_agent, name, &args.reconcile, &args.service).await?;
    let shutdown = CancellationToken::new();
    let (https, _renewing) = domain.inspect(OpenDomain::announce).map(OpenDomain::parts).unzip();
    output::note(format_args!("the control plane is ready at http://{address}"));
    let running = plane.run(listener, https, shutdown.clone());
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
    (store, token_key): (StoreUrl, TokenKey),
    host_agent: HostAgentAddress,
    domain: Option<Domain>,
    reconcile: &ReconcileArgs,
    service: &ServiceArgs,
) -> anyhow::Result<ControlPlane> {
    let mut config = Config::new(store, token_key, host_agent);
    config.domain = domain;
    reconcile.apply(&mut config);
    service.apply(&mut config);
    ControlPlane::open(config).await.context("the control plane cannot start")
}
