//! What sandboxes may reach, as their host has it.

use std::time::Duration;

use connectrpc::ErrorCode;
use model::{InternetAccess, NetworkPolicy, SandboxId};
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
    pb::NetworkPolicy {
        deny_internet_access: policy.internet() == InternetAccess::Off,
        allow_out: policy.allowed().iter().map(ToString::to_string).collect(),
        deny_out: policy.denied().iter().map(ToString::to_string).collect(),
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
        let internet = if policy.deny_internet_access { InternetAccess::Off } else { InternetAccess::On };
        let policy = NetworkPolicy::new(internet, &policy.allow_out, &policy.deny_out).map_err(|error| {
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
