//! Which server a client command speaks to.

use anyhow::Context as _;
use clap::Args;
use client::Client;

use super::BadConfig;

/// The flag that every client command has.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server
    #[arg(long, env = "SANDPIPER_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
}

impl ServerArgs {
    /// A client for it. Connects at the first call.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url).context(BadConfig)
    }
}
