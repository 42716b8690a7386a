//! `sandpiper host-agent`, and its start and end as a part of `up`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use host_agent::HostAgent;
use host_agent::service::{Listener, serve};
use tokio_util::sync::CancellationToken;

use super::{HostAgentArgs, HostArgs, listen};
use crate::console::output;
use crate::console::{Ended, Signals};
use crate::templates::build_missing;

/// Runs the host agent until a signal.
pub async fn host_agent(args: &HostAgentArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let listener = listen::host_agent(args.listen).await?;
    let address = listener.local_addr().context("cannot tell the listen address")?;
    let agent = match start(&args.host, &mut signals).await? {
        Ended::Done(agent) => agent,
        Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
    };
    let shutdown = CancellationToken::new();
    let mut serving = tokio::spawn(serve(agent.clone(), Listener::Tcp(listener), shutdown.clone()));
    output::note(format_args!("the host agent is ready at http://{address}"));
    tokio::select! {
        ended = &mut serving => {
            stop(&agent).await?;
            ended.context("the host agent's service ended")??;
            bail!("the host agent's service ended");
        }
        _ = signals.next() => {}
    }
    output::note(format_args!("stopping: sandboxes are deleted"));
    tokio::select! {
        stopped = stop(&agent) => stopped?,
        interrupt = signals.next() => return Ok(interrupt.exit_code()),
    }
    shutdown.cancel();
    Ok(ExitCode::SUCCESS)
}

/// Opens the host and builds the templates that are missing.
pub async fn start(args: &HostArgs, signals: &mut Signals) -> anyhow::Result<Ended<Arc<HostAgent>>> {
    let agent = HostAgent::start(args.config()).await.context("the host agent cannot start")?;
    let built = build_missing(&agent.host.templates, &args.templates, signals).await;
    match built {
        Ok(Ended::Done(())) => Ok(Ended::Done(Arc::new(agent))),
        Ok(Ended::Interrupted(interrupt)) => {
            stop(&agent).await?;
            Ok(Ended::Interrupted(interrupt))
        }
        Err(error) => {
            stop(&agent).await?;
            Err(error)
        }
    }
}

/// Deletes all sandboxes.
pub async fn stop(agent: &HostAgent) -> anyhow::Result<()> {
    let left = agent.close().await;
    for (id, error) in &left {
        tracing::error!(sandbox = %id, error = error as &dyn std::error::Error, "something is left");
    }
    if !left.is_empty() {
        bail!("{} sandboxes could not be removed; the next start tries again", left.len());
    }
    Ok(())
}
