//! What sandboxes may reach, as their host has it.

use std::collections::BTreeMap;
use std::time::Duration;

use connectrpc::ErrorCode;
use model::{HeaderWords, NetworkPolicy, PolicyWords, ProxyTls, ProxyWords, SandboxId, Secret, Untold};
use proto::hostagent::v1 as pb;

use super::calls::{repeatable, within};
use super::{HostAgent, HostError};

const NETWORK: Duration = Duration::from_secs(30);

/// What a sandbox may reach and what it tried beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    /// What holds.
    pub policy: NetworkPolicy<Untold>,
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
        egress_proxy: words.egress_proxy.map(wire_proxy).into(),
        request_headers: words.request_headers.into_iter().map(wire_headers).collect(),
        ..Default::default()
    }
}

fn wire_headers((domain, headers): (String, BTreeMap<String, Secret>)) -> pb::HostHeaders {
    let headers = headers.into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect();
    pb::HostHeaders { domain, headers, ..Default::default() }
}

fn header_words(headers: Vec<pb::HostHeaders>) -> HeaderWords<Untold> {
    let untold = |host: pb::HostHeaders| (host.domain, host.headers.into_keys().map(|name| (name, Untold)).collect());
    headers.into_iter().map(untold).collect()
}

fn wire_proxy(proxy: ProxyWords) -> pb::EgressProxy {
    let tls = proxy.tls.map(|tls| pb::ProxyTls {
        server_name: tls.server_name.unwrap_or_default(),
        ca_cert: tls.ca_cert.unwrap_or_default(),
        ..Default::default()
    });
    pb::EgressProxy {
        address: proxy.address,
        username: proxy.username.unwrap_or_default(),
        password: proxy.password.map(|password| password.reveal().to_owned()).unwrap_or_default(),
        tls: tls.into(),
        ..Default::default()
    }
}

fn proxy_words(proxy: pb::EgressProxy) -> ProxyWords<Untold> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let tls = proxy.tls.into_option();
    let tls = tls.map(|tls| ProxyTls { server_name: given(tls.server_name), ca_cert: given(tls.ca_cert) });
    ProxyWords { address: proxy.address, username: given(proxy.username), password: None, tls }
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
            egress_proxy: policy.egress_proxy.into_option().map(proxy_words),
            request_headers: header_words(policy.request_headers),
        };
        let policy = NetworkPolicy::new(words).map_err(|error| {
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
