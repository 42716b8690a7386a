//! `key …`: API keys, made and revoked in the database itself. Needs no server; a running one obeys at once.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use control_plane::{ApiKey, Keys};
use model::OwnerId;
use serde::Serialize;

use super::output;
use crate::serve::DatabaseArgs;

/// Subcommands of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, once. From the first key on, the server asks for one
    Create(CreateArgs),
    /// List keys, also revoked ones; never the keys themselves
    Ls(ListArgs),
    /// Revoke a key, at once and for ever
    Revoke(RevokeArgs),
}

/// Flags of `key create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What the key is for
    #[arg(value_name = "NAME", default_value = "")]
    name: String,
    /// Whose sandboxes it sees: of two keys with one owner each sees what the other made; '' is who made sandboxes
    /// before there were keys. Without this the key has an owner of its own
    #[arg(long, value_name = "OWNER")]
    owner: Option<OwnerId>,
    #[command(flatten)]
    records: RecordsArgs,
}

/// Flags of `key ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    records: RecordsArgs,
}

/// Flags of `key revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Id of the key, as `key ls` shows it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    records: RecordsArgs,
}

#[derive(Debug, Args)]
struct RecordsArgs {
    /// Directory of the server's database
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = super::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Serialize)]
struct KeyView {
    id: String,
    owner: String,
    name: String,
    created_at: String,
    revoked_at: Option<String>,
}

/// Runs one of them.
pub async fn run(command: KeyCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeyCommand::Create(args) => {
            let keys = args.records.open().await?;
            let (recorded, key) = keys.create(&args.name, args.owner).await?;
            keys.close().await;
            output::line(key)?;
            output::note(format_args!("key {}; it is not shown again", recorded.id));
        }
        KeyCommand::Ls(args) => {
            let keys = args.records.open().await?;
            let list: Vec<_> = keys.list().await?.into_iter().map(view).collect();
            keys.close().await;
            if args.json {
                output::json(&list)?;
            } else {
                output::table(["ID", "OWNER", "NAME", "CREATED", "REVOKED"], list.into_iter().map(row))?;
            }
        }
        KeyCommand::Revoke(args) => {
            let keys = args.records.open().await?;
            let is_known = keys.revoke(&args.id).await?;
            keys.close().await;
            if !is_known {
                bail!("there is no key {:?}", args.id);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl RecordsArgs {
    async fn open(&self) -> anyhow::Result<Keys> {
        Ok(Keys::open(&self.database.store(&self.data_dir)?).await?)
    }
}

fn view(key: ApiKey) -> KeyView {
    let time = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    KeyView {
        id: key.id,
        owner: key.owner.to_string(),
        name: key.name,
        created_at: time(key.created_at),
        revoked_at: key.revoked_at.map(time),
    }
}

fn row(key: KeyView) -> [String; 5] {
    [key.id, key.owner, key.name, key.created_at, key.revoked_at.unwrap_or_else(|| "-".to_owned())]
}
