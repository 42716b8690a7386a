//! Which database holds the records.

use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;
use clap::Args;
use control_plane::StoreUrl;

use crate::console::BadConfig;

/// The embedded database's file in a data directory.
const FILE: &str = "sandpiper.db";

/// The flag of every command that works with the records.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// Database for the records, as postgres://USER:PASSWORD@HOST/NAME. By default a file in the data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<Hidden>,
}

/// A text that may hold a password: neither an error of the grammar nor a log shows it.
#[derive(Clone)]
struct Hidden(String);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl DatabaseArgs {
    /// The database that was named, or the file in the data directory, which is made.
    pub fn store(&self, data_dir: &Path) -> anyhow::Result<StoreUrl> {
        if let Some(Hidden(text)) = self.database_url.as_ref().filter(|text| !text.0.is_empty()) {
            return text.parse().context("--database-url (DATABASE_URL) names no database").context(BadConfig);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("cannot make {}", data_dir.display()))?;
        Ok(StoreUrl::Sqlite(data_dir.join(FILE)))
    }
}
