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
    /// API key, if the server asks for one
    #[arg(long, env = "SANDPIPER_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
}

impl ServerArgs {
    /// The address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key, if one was given.
    pub fn api_key(&self) -> Option<&str> {
        self.api_key.as_deref().filter(|key| !key.is_empty())
    }

    /// A client for it. Connects at the first call.
    pub fn client(&self) -> anyhow::Result<Client> {
        let client = Client::new(&self.url).context(BadConfig)?;
        match self.api_key() {
            Some(key) => client.with_key(key).context(BadConfig),
            None => Ok(client),
        }
    }
}
