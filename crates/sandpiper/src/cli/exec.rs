//! A command followed live: its output becomes ours, its exit code too.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use client::{Client, ExecEvent, ExecStart, ExecStream, SandboxId};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::command::CommandArgs;
use super::failure::{broken_pipe, is_broken_pipe, report_as};
use super::output::as_file;
use super::server::ServerArgs;
use super::signals::{Ended, Signals};

/// What `run` and `exec` end with when Sandpiper failed and not the command, as other runners do.
pub const OWN_FAILURE: u8 = 125;

/// For the server to confirm that it killed the command. It does so also when we no longer listen.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// Flags of `sandbox exec`.
#[derive(Debug, Args)]
#[command(after_help = "Output is passed on live and as exact bytes; there is no standard input. Exit code: the \
    command's own; 128+n when signal n ended it; 127 no such program; 125 a failure of Sandpiper; 130 after Ctrl-C, \
    which kills the command.")]
pub struct ExecArgs {
    /// The sandbox
    id: SandboxId,
    #[command(flatten)]
    command: CommandArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs a command in a sandbox that exists and ends as it ended.
pub async fn run(args: ExecArgs) -> ExitCode {
    let followed = async {
        let client = args.server.client()?;
        follow(&client, &args.id, &args.command.into_start(), &mut Signals::listen()?).await
    };
    match followed.await {
        Ok(Ended::Done(code)) => code,
        Ok(Ended::Interrupted(interrupt)) => interrupt.exit_code(),
        Err(error) => report_as(&error, OWN_FAILURE),
    }
}

/// Runs a command and copies its output to ours. A signal kills it; so does a reader of ours that went away.
pub async fn follow(
    client: &Client,
    id: &SandboxId,
    start: &ExecStart,
    signals: &mut Signals,
) -> anyhow::Result<Ended<ExitCode>> {
    let mut stream = tokio::select! {
        stream = client.exec_stream(id, start) => stream?,
        interrupt = signals.next() => return Ok(Ended::Interrupted(interrupt)),
    };
    let copied = tokio::select! {
        copied = copy(&mut stream) => copied,
        interrupt = signals.next() => {
            stop(&mut stream).await;
            return Ok(Ended::Interrupted(interrupt));
        }
    };
    match copied {
        Ok(code) => Ok(Ended::Done(code)),
        Err(error) if is_broken_pipe(&error) => {
            stop(&mut stream).await;
            Ok(Ended::Done(broken_pipe()))
        }
        Err(error) => Err(error),
    }
}

async fn copy(stream: &mut ExecStream) -> anyhow::Result<ExitCode> {
    let (mut stdout, mut stderr) = (as_file(io::stdout())?, as_file(io::stderr())?);
    while let Some(event) = stream.next().await {
        match event? {
            ExecEvent::Started(_) => {}
            ExecEvent::Stdout(bytes) => write(&mut stdout, &bytes).await?,
            ExecEvent::Stderr(bytes) => write(&mut stderr, &bytes).await?,
            ExecEvent::Exit(exit) => return Ok(ExitCode::from(exit.shell_code())),
        }
    }
    anyhow::bail!("the server ended the command's stream without an exit code")
}

async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes).await?;
    output.flush().await
}

async fn stop(stream: &mut ExecStream) {
    let drained = async {
        stream.stop().await?;
        while let Some(event) = stream.next().await {
            event?;
        }
        Ok::<(), client::Error>(())
    };
    // Whatever comes of it, the connection is closed next, and that kills the command as well.
    let _ = timeout(STOP_LIMIT, drained).await;
}
