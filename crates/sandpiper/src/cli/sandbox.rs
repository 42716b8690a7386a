//! `sandbox …`: the life of sandboxes, one call each.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use client::{Client, CreateSandbox, ListFilter, OnTimeout, Sandbox, SandboxId};

use super::run::ShapeArgs;
use super::server::ServerArgs;
use super::{copy, exec, failure, output};

/// Subcommands of `sandbox`.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Create a sandbox and print its id
    Create(CreateArgs),
    /// List sandboxes, the newest first
    Ls(ListArgs),
    /// Run a command in a sandbox and follow it
    Exec(exec::ExecArgs),
    /// Follow a process that runs in a sandbox, or read what one printed that has ended
    Attach(exec::AttachArgs),
    /// Copy a file into or out of a sandbox
    Cp(copy::CopyArgs),
    /// Make sandboxes that go on from where one is, which goes on too, and print their ids
    Fork(ForkArgs),
    /// Stop a sandbox from executing until it is resumed
    Pause(OneArgs),
    /// End what runs in a sandbox and keep its disk, from which `resume` boots it
    Stop(OneArgs),
    /// Let a paused sandbox go on, or boot a stopped one
    Resume(OneArgs),
    /// Remove sandboxes, whatever their state
    Rm(RemoveArgs),
}

/// Flags of `sandbox create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Template, such as minimal or python311
    #[arg(required_unless_present = "snapshot")]
    template: Option<String>,
    /// Go on from this snapshot, by its name or id; template and shape are then the snapshot's
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Seconds without activity until the sandbox's time is over; 0 is never (default: the server's, 300)
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// What becomes of the sandbox then (default: the server's, destroy)
    #[arg(long, value_enum, value_name = "WHAT")]
    on_timeout: Option<TimeoutArg>,
    /// Resume the sandbox when it is paused and somebody calls it
    #[arg(long)]
    auto_resume: bool,
    /// A name and a value of your own, by which `ls --metadata` finds the sandbox; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Print the whole sandbox as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a timeout does.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TimeoutArg {
    /// Remove it
    Destroy,
    /// Pause it
    Pause,
    /// Keep its disk alone
    Stop,
}

impl From<TimeoutArg> for OnTimeout {
    fn from(what: TimeoutArg) -> Self {
        match what {
            TimeoutArg::Destroy => Self::Destroy,
            TimeoutArg::Pause => Self::Pause,
            TimeoutArg::Stop => Self::Stop,
        }
    }
}

/// Flags of `sandbox fork`.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// The sandbox
    id: SandboxId,
    /// How many to make
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    count: u32,
    /// Print the sandboxes as a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `sandbox ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also those that are stopped or failed
    #[arg(long, short = 'a')]
    all: bool,
    /// Only those in this state, such as running or paused; may be given more than once
    #[arg(long, value_name = "STATUS", conflicts_with = "all")]
    status: Vec<String>,
    /// Only those with this in their metadata; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `sandbox pause`, `sandbox stop` and `sandbox resume`.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The sandbox
    id: SandboxId,
    /// Print the whole sandbox as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `sandbox rm`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The sandboxes
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<SandboxId>,
    /// Every sandbox that is not stopped
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Does one of them.
pub async fn run(command: SandboxCommand) -> anyhow::Result<ExitCode> {
    match command {
        SandboxCommand::Create(args) => create(args).await,
        SandboxCommand::Ls(args) => list(&args).await,
        SandboxCommand::Exec(args) => Ok(exec::run(args).await),
        SandboxCommand::Attach(args) => Ok(exec::attach(args).await),
        SandboxCommand::Cp(args) => copy::run(&args).await,
        SandboxCommand::Fork(args) => fork(&args).await,
        SandboxCommand::Pause(args) => {
            let sandbox = args.server.client()?.pause(&args.id).await?;
            show(&sandbox, args.json)
        }
        SandboxCommand::Stop(args) => {
            let sandbox = args.server.client()?.stop(&args.id).await?;
            show(&sandbox, args.json)
        }
        SandboxCommand::Resume(args) => {
            let sandbox = args.server.client()?.resume(&args.id).await?;
            show(&sandbox, args.json)
        }
        SandboxCommand::Rm(args) => remove(&args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<ExitCode> {
    let wish = CreateSandbox {
        template: args.template.unwrap_or_default(),
        snapshot: args.snapshot,
        vcpus: args.shape.vcpus,
        memory_mb: args.shape.memory_mb,
        disk_mb: args.shape.disk_mb,
        timeout_sec: args.timeout,
        on_timeout: args.on_timeout.map(OnTimeout::from),
        auto_resume: args.auto_resume.then_some(true),
        metadata: args.metadata.into_iter().collect(),
        ..CreateSandbox::default()
    };
    let sandbox = args.server.client()?.create(&wish).await?;
    show(&sandbox, args.json)
}

async fn fork(args: &ForkArgs) -> anyhow::Result<ExitCode> {
    let children = args.server.client()?.fork(&args.id, args.count).await?;
    if args.json {
        output::json(&children)?;
    } else {
        children.iter().try_for_each(|child| output::line(&child.id))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn show(sandbox: &Sandbox, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        output::json(sandbox)?;
    } else {
        output::line(&sandbox.id)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let filter = ListFilter { statuses: args.status.clone(), metadata: args.metadata.iter().cloned().collect() };
    let mut sandboxes = args.server.client()?.list_matching(&filter).await?;
    sandboxes.retain(|sandbox| args.all || !args.status.is_empty() || sandbox.is_live());
    if args.json {
        output::json(&sandboxes)?;
    } else {
        output::table(
            ["ID", "TEMPLATE", "STATUS", "VCPUS", "MEMORY", "CREATED", "HOST IP"],
            sandboxes.iter().map(row),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(sandbox: &Sandbox) -> [String; 7] {
    [
        sandbox.id.to_string(),
        sandbox.template.clone(),
        sandbox.status.clone(),
        sandbox.vcpus.to_string(),
        format!("{} MiB", sandbox.memory_mb),
        sandbox.created_at.clone(),
        sandbox.host_ip.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// Removes each and prints its id; one that cannot be removed does not keep the others from it.
async fn remove(args: &RemoveArgs) -> anyhow::Result<ExitCode> {
    let client = args.server.client()?;
    let ids = if args.all { not_stopped(&client).await? } else { args.ids.clone() };
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match client.delete(&id).await {
            Ok(()) => output::line(&id)?,
            Err(error) => {
                code = failure::report(&anyhow::Error::new(error).context(format!("{id} is not removed")));
            }
        }
    }
    Ok(code)
}

async fn not_stopped(client: &Client) -> anyhow::Result<Vec<SandboxId>> {
    let sandboxes = client.list().await?;
    Ok(sandboxes.into_iter().filter(|sandbox| sandbox.status != "stopped").map(|sandbox| sandbox.id).collect())
}
