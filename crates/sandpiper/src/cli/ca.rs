//! `ca …`: a small authority of one's own, whose certificates let control planes and host agents on different machines
//! know each other. Works on a directory; whoever has its key can make anybody a control plane.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use model::Role;

use super::output;
use crate::certificate::{self, Made, Name};

const AUTHORITY: &str = "ca";

/// Subcommands of `ca`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make the authority: ca.crt, which both sides are told with --tls-ca, and ca.key, which stays here
    Init(InitArgs),
    /// Make a certificate and its key for one control plane or host agent
    #[command(subcommand)]
    Issue(IssueCommand),
}

/// What a certificate is for.
#[derive(Debug, Subcommand)]
pub enum IssueCommand {
    /// For a host agent; NAME is the name or address by which control planes reach it
    HostAgent(IssueArgs),
    /// For a control plane
    ControlPlane(IssueArgs),
}

/// Flags of `ca init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Days until it expires
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    #[command(flatten)]
    directory: DirectoryArgs,
}

/// Flags of `ca issue …`.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// A DNS name or an IP address
    #[arg(value_name = "NAME")]
    name: Name,
    /// Another name or address of the same machine; may be repeated
    #[arg(long = "san", value_name = "NAME")]
    also: Vec<Name>,
    /// Days until it expires
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Replace the certificate and key that were made for this name before
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    directory: DirectoryArgs,
}

#[derive(Debug, Args)]
struct DirectoryArgs {
    /// Directory of the authority
    #[arg(long = "dir", env = "SANDPIPER_CA_DIR", value_name = "DIR", default_value = "/var/lib/sandpiper/ca")]
    path: PathBuf,
}

/// Runs one of them.
pub fn run(command: CaCommand) -> anyhow::Result<ExitCode> {
    match command {
        CaCommand::Init(args) => init(&args)?,
        CaCommand::Issue(IssueCommand::HostAgent(args)) => issue(Role::HostAgent, &args)?,
        CaCommand::Issue(IssueCommand::ControlPlane(args)) => issue(Role::ControlPlane, &args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> anyhow::Result<()> {
    let directory = &args.directory.path;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    keep(directory, AUTHORITY, &certificate::authority(args.days)?, false)
}

fn issue(role: Role, args: &IssueArgs) -> anyhow::Result<()> {
    let directory = &args.directory.path;
    let read = |suffix| {
        let path = directory.join(format!("{AUTHORITY}.{suffix}"));
        std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; `sandpiper ca init` makes it", path.display()))
    };
    let names: Vec<_> = std::iter::once(&args.name).chain(&args.also).cloned().collect();
    let made = certificate::issue(&read("crt")?, &read("key")?, role, &names, args.days)?;
    keep(directory, &format!("{}-{}", role.as_str(), args.name), &made, args.renew)
}

/// Writes both files, for their owner alone, and says where they are.
fn keep(directory: &Path, name: &str, made: &Made, replace: bool) -> anyhow::Result<()> {
    let path = |suffix| directory.join(format!("{name}.{suffix}"));
    let (key, certificate) = (path("key"), path("crt"));
    for path in [&key, &certificate] {
        if !replace && path.exists() {
            bail!("{} is there already, and stays as it is", path.display());
        }
    }
    // The key first: a certificate without its key would be of no use.
    certificate::write(directory, &key, &made.key, replace)?;
    certificate::write(directory, &certificate, &made.certificate, replace)?;
    output::line(certificate.display())?;
    output::line(key.display())?;
    output::note(format_args!("valid until {}", made.until));
    Ok(())
}
