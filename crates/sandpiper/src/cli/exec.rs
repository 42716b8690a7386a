//! A command followed live: its output becomes ours, its exit code too.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use client::{Client, ExecEvent, ExecStart, ExecStream, SandboxId};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::command::CommandArgs;
use super::failure::{broken_pipe, is_broken_pipe, report_as};
use super::output::as_file;
use super::server::ServerArgs;
use super::signals::{Ended, Signals};

/// What `run` and `exec` end with when Sandpiper failed and not the command, as other runners do.
pub const OWN_FAILURE: u8 = 125;

/// For the server to confirm that it killed the command. It does so also when we no longer listen.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How long a server that was lost is sought again.
const SEEK_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries.
const SEEK_INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `sandbox exec`.
#[derive(Debug, Args)]
#[command(after_help = "Output is passed on live and as exact bytes; there is no standard input. Exit code: the \
    command's own; 128+n when signal n ended it; 127 no such program; 125 a failure of Sandpiper, also where it is not \
    known how the command ended; 130 after Ctrl-C, which kills the command. A connection that is lost is made anew, and \
    the command goes on meanwhile.")]
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
    exit_code(followed.await)
}

fn exit_code(followed: anyhow::Result<Ended<ExitCode>>) -> ExitCode {
    match followed {
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
    let start = ExecStart { keep: true, ..start.clone() };
    let stream = tokio::select! {
        stream = client.exec_stream(id, &start) => stream?,
        interrupt = signals.next() => return Ok(Ended::Interrupted(interrupt)),
    };
    copy(Followed { client, id, stream, pid: None }, signals).await
}

/// Flags of `sandbox attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "What the process printed before comes first, as far as it is kept. Ends as `sandbox exec` does; \
    Ctrl-C kills the process, the end of this command does not."
)]
pub struct AttachArgs {
    /// The sandbox
    id: SandboxId,
    /// The process's id or its tag
    process: String,
    /// Bytes of its output that are not wanted again
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// Follows a process that is there and ends as it ends.
pub async fn attach(args: AttachArgs) -> ExitCode {
    let followed = async {
        let client = args.server.client()?;
        let mut signals = Signals::listen()?;
        let stream = client.follow_again(&args.id, &args.process, args.from).await?;
        copy(Followed { client: &client, id: &args.id, stream, pid: None }, &mut signals).await
    };
    exit_code(followed.await)
}

/// Copies output to ours until the command ends or a signal comes.
async fn copy(mut followed: Followed<'_>, signals: &mut Signals) -> anyhow::Result<Ended<ExitCode>> {
    let copied = tokio::select! {
        copied = followed.copy() => copied,
        interrupt = signals.next() => {
            stop(&mut followed.stream).await;
            return Ok(Ended::Interrupted(interrupt));
        }
    };
    match copied {
        Ok(code) => Ok(Ended::Done(code)),
        Err(error) if is_broken_pipe(&error) => {
            stop(&mut followed.stream).await;
            Ok(Ended::Done(broken_pipe()))
        }
        Err(error) => Err(error),
    }
}

/// A command that is followed, over one connection after another.
struct Followed<'a> {
    client: &'a Client,
    id: &'a SandboxId,
    stream: ExecStream,
    /// Known once it runs.
    pid: Option<u32>,
}

impl Followed<'_> {
    async fn copy(&mut self) -> anyhow::Result<ExitCode> {
        let (mut stdout, mut stderr) = (as_file(io::stdout())?, as_file(io::stderr())?);
        while let Some(event) = self.stream.next().await {
            match event {
                Ok(ExecEvent::Started(pid)) => self.pid = Some(pid),
                Ok(ExecEvent::Stdout(bytes)) => write(&mut stdout, &bytes).await?,
                Ok(ExecEvent::Stderr(bytes)) => write(&mut stderr, &bytes).await?,
                Ok(ExecEvent::Lost(bytes)) => {
                    let words = format!("sandpiper: {bytes} bytes of output were lost with the connection\n");
                    write(&mut stderr, words.as_bytes()).await?;
                }
                Ok(ExecEvent::Exit(exit)) => return Ok(ExitCode::from(exit.shell_code())),
                Err(error) => self.seek(error).await?,
            }
        }
        anyhow::bail!("the server ended the command's stream without an exit code")
    }

    /// Goes on where a lost connection was. What else went wrong is told, and so is a server that stays away.
    async fn seek(&mut self, lost: client::Error) -> anyhow::Result<()> {
        let Some(pid) = self.pid.filter(|_| lost.is_connection()) else { return Err(lost.into()) };
        let until = Instant::now() + SEEK_LIMIT;
        loop {
            match self.client.follow_again(self.id, &pid.to_string(), self.stream.place()).await {
                Ok(stream) => {
                    self.stream = stream;
                    return Ok(());
                }
                Err(error) if error.is_connection() && Instant::now() < until => sleep(SEEK_INTERVAL).await,
                Err(error) => {
                    return Err(anyhow::Error::new(error).context("it is not known how the command ended"));
                }
            }
        }
    }
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
