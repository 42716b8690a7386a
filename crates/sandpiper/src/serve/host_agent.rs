//! `sandpiper host-agent`, and its start and end as a part of `up`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use host_agent::HostAgent;
use host_agent::service::serve;
use tokio_util::sync::CancellationToken;

use super::{HostAgentArgs, HostArgs, HostListen, OnExit, listen};
use crate::console::output;
use crate::console::{Ended, Signals};
use crate::templates::build_missing;

/// Runs the host agent until a signal.
pub async fn host_agent(args: &HostAgentArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let tls = args.tls.host_agent(&args.listen)?;
    let (listener, address) = listen::host_agent(&args.listen, tls).await?;
    let agent = match start(&args.host, &mut signals).await? {
        Ended::Done(agent) => agent,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let shutdown = CancellationToken::new();
    let mut serving = tokio::spawn(serve(agent.clone(), listener, shutdown.clone()));
    output::note(format_args!("the host agent is ready at {address}"));
    tokio::select! {
        ended = &mut serving => {
            stop(&agent, args.host.on_exit).await?;
            ended.context("the host agent's service ended")??;
            bail!("the host agent's service ended");
        }
        _ = signals.next() => {}
    }
    output::note(format_args!("stopping: {}", args.host.on_exit));
    tokio::select! {
        stopped = stop(&agent, args.host.on_exit) => stopped?,
        interrupt = signals.next() => return Ok(interrupt.exit_code()),
    }
    shutdown.cancel();
    if let HostListen::Unix(path) = &args.listen {
        // Nobody listens there any more; a leftover would only be replaced by the next start.
        let _ = std::fs::remove_file(path);
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the host and builds the templates that are missing.
pub async fn start(args: &HostArgs, signals: &mut Signals) -> anyhow::Result<Ended<Arc<HostAgent>>> {
    let agent = HostAgent::start(args.config()).await.context("the host agent cannot start")?;
    let built = build_missing(&agent.host.templates, &args.templates, signals).await;
    match built {
        Ok(Ended::Done(())) => Ok(Ended::Done(Arc::new(agent))),
        Ok(Ended::Interrupted(interrupt)) => {
            stop(&agent, args.on_exit).await?;
            Ok(Ended::Interrupted(interrupt))
        }
        Err(error) => {
            stop(&agent, args.on_exit).await?;
            Err(error)
        }
    }
}

/// Ends all sandboxes, or puts them on disk.
pub async fn stop(agent: &HostAgent, on_exit: OnExit) -> anyhow::Result<()> {
    let left = agent.close(on_exit.on_close()).await;
    for (id, error) in &left {
        tracing::error!(sandbox = %id, error = error as &dyn std::error::Error, "something is left");
    }
    if !left.is_empty() {
        bail!("{} sandboxes could not be removed; the next start tries again", left.len());
    }
    Ok(())
}
