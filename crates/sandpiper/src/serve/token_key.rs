//! Where the key is that tokens are sealed with in the records.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use control_plane::TokenKey;

use crate::console::BadConfig;

/// The key's file in a data directory.
const FILE: &str = "token.key";

/// The flag of every role that keeps records.
#[derive(Debug, Clone, Args)]
pub struct TokenKeyArgs {
    /// File with the key that sandboxes' tokens are sealed with in the database; all control planes on one database have the
    /// same. By default a file in the data directory, made at the first start
    #[arg(long, env = "SANDPIPER_TOKEN_KEY", value_name = "FILE")]
    token_key: Option<PathBuf>,
}

impl TokenKeyArgs {
    /// The key in the file that was named, or the one in the data directory, which is made.
    pub fn load(&self, data_dir: &Path) -> anyhow::Result<TokenKey> {
        let key = match self.token_key.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => TokenKey::load(path),
            None => {
                let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
                made.with_context(|| format!("cannot make {}", data_dir.display()))?;
                TokenKey::load_or_make(&data_dir.join(FILE))
            }
        };
        key.context("the token key cannot be used").context(BadConfig)
    }
}
