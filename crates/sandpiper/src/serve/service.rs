//! The flags of what surrounds the roles' work: the configuration file, the log, the REST API's bounds.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use control_plane::Config;

use crate::console::{LogFormat, valid_filter};

/// Where settings come from. `config` obeys these before a role begins.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// File with settings, in TOML: the names of the flags, with `_` for `-`. Flags and variables win
    #[arg(long = "config", env = "SANDPIPER_CONFIG", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Print every setting with where it comes from, and end
    #[arg(long)]
    pub print_config: bool,
}

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as host_agent=debug
    #[arg(long, env = "SANDPIPER_LOG", value_name = "FILTER", default_value = "info", value_parser = valid_filter)]
    pub log: String,
    /// How: text, or one JSON object a line
    #[arg(long, env = "SANDPIPER_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// What clients of the REST API may do, and how it ends.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// Names and addresses by which clients may call the server, beside loopback and the listen address; separated by
    /// commas
    #[arg(long, env = "SANDPIPER_ALLOWED_HOSTS", value_name = "LIST", value_delimiter = ',', value_parser = host_name)]
    allowed_hosts: Vec<String>,
    /// Largest file in MiB that can be uploaded
    #[arg(long, env = "SANDPIPER_UPLOAD_LIMIT_MB", value_name = "MB", default_value_t = 100,
          value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    upload_limit_mb: u64,
    #[command(flatten)]
    pub drain: DrainArgs,
}

/// How a role ends.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    /// Seconds that requests under way have when the server ends
    #[arg(long, env = "SANDPIPER_DRAIN_SEC", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub drain_sec: u64,
}

impl DrainArgs {
    /// The same as a time.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.drain_sec)
    }
}

impl ServiceArgs {
    /// Sets the same in a control plane's configuration.
    pub fn apply(&self, config: &mut Config) {
        config.allowed_hosts = self.allowed_hosts.clone();
        config.limits.upload = self.upload_limit_mb << 20;
        config.drain = self.drain.patience();
    }
}

/// The name alone: a Host header's port says nothing about who is meant.
fn host_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("it must be a name or an address, without a scheme or a port".to_owned())
}
