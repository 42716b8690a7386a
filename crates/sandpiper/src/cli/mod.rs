//! The command line: its grammar, and what each subcommand does as a client.
//!
//! Client commands know the REST API only. `template` works on a data directory, `key` on the database, `ca` on
//! files, `doctor` on the machine; none of them needs a server.

mod bench;
mod ca;
mod command;
mod copy;
mod disk;
mod doctor;
mod exec;
mod key;
mod run;
mod sandbox;
mod security_test;
mod server;
mod session;
mod snapshot;
mod template;
mod temporary;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::console::{BadConfig, LogFormat, failure, output, signals, start_log, valid_filter};
use crate::serve::{self, DEFAULT_DATA_DIR, DEFAULT_LISTEN};

/// Runs untrusted code in microVM sandboxes
#[derive(Debug, Parser)]
#[command(name = "sandpiper", version, arg_required_else_help = true)]
#[command(after_help = "Every flag that names an environment variable can be set by it; the flag wins. Servers also \
    read a file: --config.\n\
    Exit codes: 1 failure, 2 usage, 64 configuration; run and exec: the command's own, or 125 for a failure of theirs.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a server: control plane and host agent in one process
    Up(serve::UpArgs),
    /// Start a host agent alone
    HostAgent(serve::HostAgentArgs),
    /// Start a control plane alone
    ControlPlane(serve::ControlPlaneArgs),
    /// Run one command in a new sandbox and remove it afterwards
    Run(run::RunArgs),
    /// Create, use and remove sandboxes
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// Keep sandboxes as snapshots, which others can be made from
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Show what takes disk space on the host
    Df(disk::DfArgs),
    /// Remove what need not be on the host's disk: what is not kept any longer, and what can be made again
    Prune(disk::PruneArgs),
    /// Build and list templates (needs no server)
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Make, list and revoke API keys (needs no server)
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Make certificates for control planes and host agents on different machines (needs no server)
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Check what this machine has and lacks for running sandboxes
    Doctor(doctor::DoctorArgs),
    /// Measure a server: create to ready, and commands through the API against the same inside the guest
    Bench(bench::BenchArgs),
    /// Attack a server from inside its sandboxes and look at their jails, and tell which claims of security hold
    SecurityTest(security_test::SecurityTestArgs),
}

impl Cli {
    /// Logs to standard error. Client commands say nothing unless something is wrong or `SANDPIPER_LOG` asks for it.
    pub fn start_tracing(&self) {
        let server = match &self.command {
            Command::Up(args) => Some(&args.log),
            Command::HostAgent(args) => Some(&args.log),
            Command::ControlPlane(args) => Some(&args.log),
            _ => None,
        };
        match server {
            Some(log) => start_log(&log.log, log.log_format),
            None => {
                let asked = std::env::var("SANDPIPER_LOG").ok().and_then(|text| valid_filter(&text).ok());
                start_log(asked.as_deref().unwrap_or("error"), LogFormat::Text);
            }
        }
    }

    /// Does what was asked for.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Up(args) => serve::up(&args).await,
            Command::HostAgent(args) => serve::host_agent(&args).await,
            Command::ControlPlane(args) => serve::control_plane(&args).await,
            Command::Run(args) => Ok(run::run(args).await),
            Command::Sandbox(command) => sandbox::run(command).await,
            Command::Snapshot(command) => snapshot::run(command).await,
            Command::Df(args) => disk::df(&args).await,
            Command::Prune(args) => disk::prune(&args).await,
            Command::Template(command) => template::run(command).await,
            Command::Key(command) => key::run(command).await,
            Command::Ca(command) => ca::run(command),
            Command::Doctor(args) => doctor::run(&args).await,
            Command::Bench(args) => bench::run(&args).await,
            Command::SecurityTest(args) => security_test::run(&args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_explained() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }

    #[test]
    fn what_stands_after_the_dashes_is_the_command_and_not_ours() {
        let cli = Cli::try_parse_from(["sandpiper", "run", "minimal", "--vcpus", "2", "--", "ls", "--json", "-l"]);
        assert!(cli.is_ok(), "{cli:?}");
        for wrong in [
            &["sandpiper", "run", "minimal"][..],
            &["sandpiper", "run", "--", "ls"],
            &["sandpiper", "run", "minimal", "--env", "NOVALUE", "--", "ls"],
            &["sandpiper", "run", "minimal", "--vcpus", "-1", "--", "ls"],
            &["sandpiper", "sandbox", "rm"],
            &["sandpiper", "sandbox", "rm", "sb1", "--all"],
            &["sandpiper", "sandbox", "rm", "../x"],
            &["sandpiper", "sandbox", "fork", "sb1", "--count", "0"],
            &["sandpiper", "sandbox", "fork", "sb1", "--count", "101"],
            &["sandpiper", "sandbox", "create"],
            &["sandpiper", "sandbox", "create", "--on-timeout", "halt", "minimal"],
            &["sandpiper", "snapshot", "rm"],
            &["sandpiper", "snapshot", "create"],
            &["sandpiper", "template", "build", "../x"],
            &["sandpiper", "up", "--accel", "fast"],
            &["sandpiper", "bench", "--runs", "0"],
            &["sandpiper", "up", "--log", "a=b=c"],
            &["sandpiper", "up", "--allowed-hosts", "http://box.example"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
