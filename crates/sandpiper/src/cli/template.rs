//! `template …`: building and listing templates in a data directory. Needs no server.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use host_agent::template::{Force, Manifest, Template, TemplateError, TemplateStore};
use jiff::Timestamp;
use model::TemplateName;
use serde::Serialize;

use super::output;
use super::signals::{Ended, Signals};
use crate::templates::build_one;

/// Subcommands of `template`.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Build templates from their recipes
    Build(BuildArgs),
    /// List the templates that can be built, and what is built of them
    Ls(ListArgs),
}

/// Flags of `template build`.
#[derive(Debug, Args)]
#[command(after_help = "A rebuild takes the old build's place only when it is complete; what fails or is interrupted \
    leaves nothing. Recipes of your own are files NAME.toml in DIR/recipes.")]
pub struct BuildArgs {
    /// Names of the templates, such as minimal or python311
    #[arg(value_name = "NAME", required = true)]
    names: Vec<TemplateName>,
    /// Build also what is up to date
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    directory: DirectoryArgs,
}

/// Flags of `template ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    directory: DirectoryArgs,
}

#[derive(Debug, Args)]
struct DirectoryArgs {
    /// Directory that templates are kept in
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = super::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

/// A template as `ls` shows it.
#[derive(Debug, PartialEq, Serialize)]
struct Entry {
    name: TemplateName,
    /// `built`, `not_built` or `unusable`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    build: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_bytes: Option<u64>,
    /// What it is, or why it cannot be used.
    description: String,
}

/// Does one of them.
pub async fn run(command: TemplateCommand) -> anyhow::Result<ExitCode> {
    match command {
        TemplateCommand::Build(args) => build(&args).await,
        TemplateCommand::Ls(args) => list(&args),
    }
}

/// Builds one after another: each uses the whole machine. A signal undoes the one at work; those before it stay.
async fn build(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let store = args.directory.open()?;
    let mut signals = Signals::listen()?;
    let force = if args.force { Force::Yes } else { Force::No };
    for name in &args.names {
        match build_one(&store, name, force, &mut signals).await? {
            Ended::Done(template) => output::line(format_args!("{name}: build {}", template.manifest.build))?,
            Ended::Interrupted(interrupt) => return Ok(interrupt.exit_code()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let listed = args.directory.open()?.list()?;
    let entries: Vec<Entry> = listed.into_iter().map(|listed| entry(listed.name, &listed.template)).collect();
    if args.json {
        output::json(&entries)?;
    } else {
        output::table(
            ["NAME", "STATUS", "BUILD", "CREATED", "DISK", "ON DISK", "DESCRIPTION"],
            entries.iter().map(row),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn entry(name: TemplateName, template: &Result<Template, TemplateError>) -> Entry {
    let without_build = |status, description| Entry {
        name: name.clone(),
        status,
        build: None,
        created_at: None,
        disk_mb: None,
        allocated_bytes: None,
        description,
    };
    match template {
        Ok(template) => built(name, &template.manifest),
        Err(TemplateError::NotBuilt { .. }) => without_build("not_built", String::new()),
        Err(error) => without_build("unusable", error.to_string()),
    }
}

fn built(name: TemplateName, manifest: &Manifest) -> Entry {
    let created = i64::try_from(manifest.created_ms / 1000).ok().and_then(|second| Timestamp::from_second(second).ok());
    Entry {
        name,
        status: "built",
        build: Some(manifest.build.to_string()),
        created_at: created.map(|time| time.to_string()),
        disk_mb: Some(manifest.disk_mb.get()),
        allocated_bytes: Some(manifest.image.allocated_bytes),
        description: manifest.description.clone(),
    }
}

fn row(entry: &Entry) -> [String; 7] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mebibytes = |number| format!("{number} MiB");
    [
        entry.name.to_string(),
        entry.status.replace('_', " "),
        or_dash(entry.build.clone()),
        or_dash(entry.created_at.clone()),
        or_dash(entry.disk_mb.map(|number| mebibytes(number.into()))),
        or_dash(entry.allocated_bytes.map(|bytes| mebibytes(bytes >> 20))),
        entry.description.clone(),
    ]
}

impl DirectoryArgs {
    fn open(&self) -> anyhow::Result<TemplateStore> {
        let opened = TemplateStore::open(&self.data_dir, crate::GUEST_AGENT);
        opened.with_context(|| format!("the data directory {} cannot be used", self.data_dir.display()))
    }
}
