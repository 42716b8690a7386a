//! `sandpiper host-agent`, and its start, its work and its end as a part of `up`.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use host_agent::service::{Drain, serve};
use host_agent::{Closed, HostAgent};
use model::TemplateName;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::{HostAgentArgs, HostArgs, HostListen, OnExit, listen};
use crate::console::output;
use crate::console::{Ended, Signals};
use crate::templates::{announce_missing, build_missing};

/// Runs the host agent until a signal.
pub async fn host_agent(args: &HostAgentArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let tls = args.tls.host_agent(&args.listen)?;
    let (listener, address) = listen::host_agent(&args.listen, tls).await?;
    let agent = start(&args.host).await?;
    let (drain, shutdown) = (Drain::default(), CancellationToken::new());
    let mut serving = tokio::spawn(serve(agent.clone(), listener, drain.clone(), shutdown.clone()));
    let ready = || output::note(format_args!("the host agent is ready at {address}"));
    let ended = tokio::select! {
        ended = work(&agent, &args.host.templates, &mut signals, ready) => ended,
        ended = &mut serving => ended_by_itself(ended),
    };
    output::note(format_args!(
        "stopping: requests have {} seconds to end, then {} (once more to stop at once)",
        args.drain.drain_sec, args.host.on_exit
    ));
    let down = async {
        // Requests first: a command that is under way needs its sandbox.
        drain.finish(args.drain.patience()).await;
        let stopped = stop(&agent, args.host.on_exit).await;
        shutdown.cancel();
        if let HostListen::Unix(path) = &args.listen {
            // Nobody listens there any more; a leftover would only be replaced by the next start.
            let _ = std::fs::remove_file(path);
        }
        stopped
    };
    tokio::select! {
        stopped = down => stopped?,
        interrupt = signals.next() => return Ok(interrupt.exit_code()),
    }
    ended
}

/// Opens the host. From here on it can be asked for what it has.
pub async fn start(args: &HostArgs) -> anyhow::Result<Arc<HostAgent>> {
    let agent = HostAgent::start(args.config()).await.context("the host agent cannot start")?;
    // Before anybody can ask for one of them.
    announce_missing(&agent.host.templates, &args.templates);
    Ok(Arc::new(agent))
}

/// Builds the templates that are missing while requests are answered, tells when all are there, and waits for a signal.
/// Returns how the process is to end.
pub async fn work(
    agent: &HostAgent,
    templates: &[TemplateName],
    signals: &mut Signals,
    ready: impl FnOnce(),
) -> anyhow::Result<ExitCode> {
    let store = &agent.host.templates;
    match build_missing(store, templates, signals).await {
        Ok(Ended::Done(())) => {}
        Ok(Ended::Interrupted(interrupt)) => {
            store.give_up_announced("the server was told to end".to_owned());
            return Ok(interrupt.exit_code());
        }
        Err(error) => {
            store.give_up_announced(format!("{error:#}"));
            return Err(error);
        }
    }
    ready();
    signals.next().await;
    Ok(ExitCode::SUCCESS)
}

/// What became of a service that nobody told to end.
pub fn ended_by_itself(ended: Result<io::Result<()>, JoinError>) -> anyhow::Result<ExitCode> {
    ended.context("the host agent's service ended")?.context("the host agent's service ended")?;
    bail!("the host agent's service ended");
}

/// Does to sandboxes what `on_exit` says, and tells which run on.
pub async fn stop(agent: &HostAgent, on_exit: OnExit) -> anyhow::Result<()> {
    let Closed { running, left } = agent.close(on_exit.on_close()).await;
    match running {
        0 => {}
        1 => output::note("1 sandbox runs on; the next start takes it over"),
        running => output::note(format_args!("{running} sandboxes run on; the next start takes them over")),
    }
    for (id, error) in &left {
        tracing::error!(sandbox = %id, error = error as &dyn std::error::Error, "something is left");
    }
    if !left.is_empty() {
        bail!("{} sandboxes could not be removed; the next start tries again", left.len());
    }
    Ok(())
}
