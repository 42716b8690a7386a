//! The packet filter: rules as `nft` text, loaded in one atomic run, and what they have counted.

mod counters;
mod rules;

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::namespace::NamespaceError;

pub use counters::Denials;
pub(super) use rules::{PROXY_PORT, TUNNEL_PORT, host_rules, policy_rules, sandbox_rules, without_table};
pub(crate) use rules::{is_fenced, name_servers};

/// How long a run may take: it is milliseconds unless the machine is in trouble.
const DEADLINE: Duration = Duration::from_secs(20);

/// What one sandbox's guest may send and receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrafficLimits {
    /// In each direction; as much may come at once.
    pub megabytes_per_second: u32,
    /// Connections that it may begin; as many may come at once.
    pub new_connections_per_second: u32,
    /// Connections that it may have: the host keeps a record of each.
    pub connections: u32,
}

impl Default for TrafficLimits {
    fn default() -> Self {
        Self { megabytes_per_second: 200, new_connections_per_second: 500, connections: 4096 }
    }
}

/// Why rules could not be loaded or looked at.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` did not start; is it installed?
    #[error("starting nft")]
    Start(#[source] io::Error),
    /// `nft` could not be talked to.
    #[error("talking to nft")]
    Talk(#[source] io::Error),
    /// `nft` did not end.
    #[error("nft was not done after {} s", DEADLINE.as_secs())]
    TooSlow,
    /// The kernel did not take the rules.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// The sandbox's namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// What `nft` printed makes no sense.
    #[error("reading what nft counted")]
    Read(#[source] serde_json::Error),
}

/// A started `nft`, in the namespace of the thread that started it.
pub(super) struct Firewall {
    nft: Child,
}

impl Firewall {
    /// Starts one that waits for rules. Needs a runtime; dropping it ends the process.
    pub fn start() -> Result<Self, FirewallError> {
        Self::start_with(&["-f", "-"])
    }

    /// Starts one that prints the counters of all tables.
    pub fn start_counting() -> Result<Self, FirewallError> {
        Self::start_with(&["-j", "list", "counters"])
    }

    fn start_with(arguments: &[&str]) -> Result<Self, FirewallError> {
        let mut command = Command::new("nft");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn().map(|nft| Self { nft }).map_err(FirewallError::Start)
    }

    /// Loads `rules`: all of them or none.
    pub async fn load(self, rules: &str) -> Result<(), FirewallError> {
        self.run(rules).await.map(drop)
    }

    /// What was counted.
    pub async fn counted(self) -> Result<Denials, FirewallError> {
        Denials::in_listing(&self.run("").await?).map_err(FirewallError::Read)
    }

    async fn run(self, input: &str) -> Result<Vec<u8>, FirewallError> {
        tokio::time::timeout(DEADLINE, self.feed(input)).await.map_err(|_| FirewallError::TooSlow)?
    }

    async fn feed(mut self, input: &str) -> Result<Vec<u8>, FirewallError> {
        if let Some(mut stdin) = self.nft.stdin.take() {
            stdin.write_all(input.as_bytes()).await.map_err(FirewallError::Talk)?;
        }
        let output = self.nft.wait_with_output().await.map_err(FirewallError::Talk)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(FirewallError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}
