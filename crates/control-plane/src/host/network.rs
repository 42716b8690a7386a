//! What sandboxes may reach, as their host has it.

use std::time::Duration;

use connectrpc::ErrorCode;
use model::{NetworkPolicy, PolicyWords, SandboxId};
use proto::hostagent::v1 as pb;

use super::calls::{repeatable, within};
use super::{HostAgent, HostError};

const NETWORK: Duration = Duration::from_secs(30);

/// What a sandbox may reach and what it tried beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    /// What holds.
    pub policy: NetworkPolicy,
    /// How often it was replaced.
    pub policy_changes: u64,
    /// Packets that went nowhere since the sandbox's network was made, by why.
    pub denials: [(&'static str, u64); 7],
}

/// The same for the host.
pub(super) fn wire(policy: &NetworkPolicy) -> pb::NetworkPolicy {
    let words = policy.words();
    let name_servers = |addresses| pb::NameServers { addresses, ..Default::default() };
    pb::NetworkPolicy {
        deny_internet_access: !words.allow_internet_access,
        allow_out: words.allow_out,
        deny_out: words.deny_out,
        name_servers: words.dns_servers.map(name_servers).into(),
        ..Default::default()
    }
}

impl HostAgent {
    /// What a sandbox may reach.
    pub async fn network(&self, id: &SandboxId) -> Result<HostNetwork, HostError> {
        let request = pb::GetSandboxNetworkRequest { sandbox_id: id.to_string(), ..Default::default() };
        let call = |options| self.host.get_sandbox_network_with_options(request.clone(), options);
        let reply = repeatable(NETWORK, call).await?.into_owned();
        let policy = reply.policy.into_option().unwrap_or_default();
        let words = PolicyWords {
            allow_internet_access: !policy.deny_internet_access,
            allow_out: policy.allow_out,
            deny_out: policy.deny_out,
            dns_servers: policy.name_servers.into_option().map(|servers| servers.addresses),
        };
        let policy = NetworkPolicy::new(&words).map_err(|error| {
            HostError::answered(ErrorCode::Internal, &format!("the host's network policy makes no sense: {error}"))
        })?;
        let denials = reply.denials.into_option().unwrap_or_default();
        let denials = [
            ("fenced", denials.fenced),
            ("denied", denials.denied),
            ("spoofed", denials.spoofed),
            ("not_ipv4", denials.not_ipv4),
            ("connections", denials.connections),
            ("bandwidth", denials.bandwidth),
            ("names", denials.names),
        ];
        Ok(HostNetwork { policy, policy_changes: reply.policy_changes, denials })
    }

    /// Replaces what a sandbox may reach.
    pub async fn set_network(&self, id: &SandboxId, policy: &NetworkPolicy) -> Result<(), HostError> {
        let (sandbox_id, policy) = (id.to_string(), wire(policy).into());
        let request = pb::SetSandboxNetworkRequest { sandbox_id, policy, ..Default::default() };
        self.host.set_sandbox_network_with_options(request, within(NETWORK)).await?;
        Ok(())
    }
}
