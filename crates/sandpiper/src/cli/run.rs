//! `run`: one command in a sandbox of its own.

use std::process::ExitCode;

use clap::Args;
use client::CreateSandbox;

use super::command::CommandArgs;
use super::exec::{self, OWN_FAILURE};
use super::failure::report_as;
use super::server::ServerArgs;
use super::signals::{Ended, Signals};
use super::temporary::with_sandbox;

/// Flags of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Output is passed on live and as exact bytes; there is no standard input. Exit code: the \
    command's own; 128+n when signal n ended it; 127 no such program; 125 a failure of Sandpiper; 130 after Ctrl-C. \
    The sandbox is removed in every case.\n\nExample: sandpiper run python311 -- python3 -c 'print(6 * 7)'")]
pub struct RunArgs {
    /// Template of the sandbox, such as minimal or python311
    template: String,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    command: CommandArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// How large a sandbox is.
#[derive(Debug, Clone, Copy, Args)]
pub struct ShapeArgs {
    /// Virtual processors (default: the server's, 1)
    #[arg(long, value_name = "COUNT")]
    pub vcpus: Option<u32>,
    /// Memory in MiB (default: the server's, 512)
    #[arg(long, value_name = "MIB")]
    pub memory_mb: Option<u32>,
    /// Root disk in MiB, not less than the template's (default: the server's, 5120)
    #[arg(long, value_name = "MIB")]
    pub disk_mb: Option<u32>,
}

/// Runs the command and ends as it ended.
pub async fn run(args: RunArgs) -> ExitCode {
    match follow_in_new_sandbox(args).await {
        Ok(Ended::Done(code)) => code,
        Ok(Ended::Interrupted(interrupt)) => interrupt.exit_code(),
        Err(error) => report_as(&error, OWN_FAILURE),
    }
}

async fn follow_in_new_sandbox(args: RunArgs) -> anyhow::Result<Ended<ExitCode>> {
    let client = args.server.client()?;
    let mut signals = Signals::listen()?;
    let wish = CreateSandbox {
        template: args.template,
        vcpus: args.shape.vcpus,
        memory_mb: args.shape.memory_mb,
        disk_mb: args.shape.disk_mb,
        ..CreateSandbox::default()
    };
    let start = args.command.into_start();
    with_sandbox(&client, &wish, &mut signals, async |sandbox, signals| {
        exec::follow(&client, &sandbox.id, &start, signals).await
    })
    .await
}
