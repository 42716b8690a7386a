//! Packet filter and address translation, as `nft` text that is loaded in one atomic run.
//!
//! The rules inside a sandbox's namespace: only the guest's own address comes out of the tap, and it leaves under the
//! peer's address; what arrives for `host_ip` goes to the guest. On the host, per installation: guests reach what is
//! not a sandbox, under the host's address; nobody else reaches them by forwarding. Tables of others are not touched.

use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use model::InstanceId;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::address::{AddressPlan, GUEST_IP, SandboxAddresses};
use super::names::{self, PEER, TAP};

/// How long a run may take: it is milliseconds unless the machine is in trouble.
const DEADLINE: Duration = Duration::from_secs(20);

/// Why rules could not be loaded.
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
}

/// A started `nft` that waits for rules, in the namespace of the thread that started it.
pub(super) struct Firewall {
    nft: Child,
}

impl Firewall {
    /// Starts `nft`. Needs a runtime; dropping it ends the process.
    pub fn start() -> Result<Self, FirewallError> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.kill_on_drop(true).spawn().map(|nft| Self { nft }).map_err(FirewallError::Start)
    }

    /// Loads `rules`: all of them or none.
    pub async fn load(self, rules: &str) -> Result<(), FirewallError> {
        tokio::time::timeout(DEADLINE, self.feed(rules)).await.map_err(|_| FirewallError::TooSlow)?
    }

    async fn feed(mut self, rules: &str) -> Result<(), FirewallError> {
        if let Some(mut stdin) = self.nft.stdin.take() {
            stdin.write_all(rules.as_bytes()).await.map_err(FirewallError::Talk)?;
        }
        let output = self.nft.wait_with_output().await.map_err(FirewallError::Talk)?;
        match output.status.success() {
            true => Ok(()),
            false => Err(FirewallError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// The rules inside a sandbox's namespace.
pub(super) fn sandbox_rules(addresses: &SandboxAddresses) -> String {
    let SandboxAddresses { host_ip, peer, .. } = addresses;
    format!(
        r#"table ip sandbox {{
    chain source {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{TAP}" ip saddr != {GUEST_IP} counter drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname "{TAP}" oifname "{PEER}" accept
        iifname "{PEER}" oifname "{TAP}" accept
    }}
    chain destination {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname "{PEER}" ip daddr {host_ip} dnat to {GUEST_IP}
    }}
    chain translation {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{PEER}" ip saddr {GUEST_IP} snat to {peer}
    }}
}}
"#
    )
}

/// The rules of an installation on the host. Peers have the odd addresses of the veth range, the host's own ends the
/// even ones: only what a guest sends is masqueraded.
pub(super) fn host_rules(instance: &InstanceId, plan: &AddressPlan) -> String {
    let without = without_table(instance);
    let (table, veths) = (names::table(instance), format!("\"{}*\"", names::veth_prefix(instance)));
    let (host_base, veth_base) = (plan.host_base(), plan.veth_base());
    let first_peer = Ipv4Addr::from(veth_base.to_bits() + 1);
    format!(
        r#"{without}table ip {table} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname {veths} ip daddr {{ {host_base}/16, {veth_base}/16 }} counter drop
        iifname {veths} oifname {veths} counter drop
        iifname {veths} accept
        oifname {veths} ct state established,related accept
        oifname {veths} counter drop
    }}
    chain translation {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != {veths} ip saddr & 255.255.0.1 == {first_peer} masquerade
    }}
}}
"#
    )
}

/// What removes an installation's table, whether or not there is one.
pub(super) fn without_table(instance: &InstanceId) -> String {
    let table = names::table(instance);
    format!("table ip {table}\ndelete table ip {table}\n")
}
