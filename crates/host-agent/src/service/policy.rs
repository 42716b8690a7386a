//! Network policies as they are on the wire. What of them is secret comes, and is never told.

use connectrpc::ConnectError;
use model::{HeaderWords, InvalidPolicy, NetworkPolicy, PolicyWords, ProxyTls, ProxyWords, Secret};
use proto::hostagent::v1::{EgressProxy, HostHeaders, NameServers, NetworkPolicy as WirePolicy, ProxyTls as WireTls};

use super::error::IntoConnect;

/// What is asked to be reached.
pub(super) fn policy_of(wire: WirePolicy) -> Result<NetworkPolicy, ConnectError> {
    let words = PolicyWords {
        allow_internet_access: !wire.deny_internet_access,
        allow_out: wire.allow_out,
        deny_out: wire.deny_out,
        dns_servers: wire.name_servers.into_option().map(|servers| servers.addresses),
        egress_proxy: wire.egress_proxy.into_option().map(proxy_of).transpose()?,
        request_headers: headers_of(wire.request_headers)?,
    };
    NetworkPolicy::new(words).map_err(IntoConnect::into_connect)
}

fn proxy_of(wire: EgressProxy) -> Result<ProxyWords, ConnectError> {
    let given = |text: String| (!text.is_empty()).then_some(text);
    let password = given(wire.password).map(Secret::password).transpose();
    Ok(ProxyWords {
        address: wire.address,
        username: given(wire.username),
        password: password.map_err(|error| IntoConnect::into_connect(InvalidPolicy::from(error)))?,
        tls: wire
            .tls
            .into_option()
            .map(|tls| ProxyTls { server_name: given(tls.server_name), ca_cert: given(tls.ca_cert) }),
    })
}

fn headers_of(wire: Vec<HostHeaders>) -> Result<HeaderWords, ConnectError> {
    let host = |host: HostHeaders| {
        let headers = host.headers.into_iter().map(|(name, value)| {
            let value = Secret::header_value(&name, value);
            value.map(|value| (name, value)).map_err(|error| IntoConnect::into_connect(InvalidPolicy::from(error)))
        });
        Ok((host.domain, headers.collect::<Result<_, ConnectError>>()?))
    };
    wire.into_iter().map(host).collect()
}

/// What is told of a policy.
pub(super) fn wire_policy(policy: &NetworkPolicy) -> WirePolicy {
    let words = policy.clone().untold().words();
    let name_servers = |addresses| NameServers { addresses, ..Default::default() };
    let headers = |(domain, headers): (String, std::collections::BTreeMap<String, _>)| HostHeaders {
        domain,
        headers: headers.into_keys().map(|name| (name, String::new())).collect(),
        ..Default::default()
    };
    WirePolicy {
        deny_internet_access: !words.allow_internet_access,
        allow_out: words.allow_out,
        deny_out: words.deny_out,
        name_servers: words.dns_servers.map(name_servers).into(),
        egress_proxy: words.egress_proxy.map(wire_proxy).into(),
        request_headers: words.request_headers.into_iter().map(headers).collect(),
        ..Default::default()
    }
}

fn wire_proxy<P>(proxy: ProxyWords<P>) -> EgressProxy {
    let tls = proxy.tls.map(|tls| WireTls {
        server_name: tls.server_name.unwrap_or_default(),
        ca_cert: tls.ca_cert.unwrap_or_default(),
        ..Default::default()
    });
    EgressProxy {
        address: proxy.address,
        username: proxy.username.unwrap_or_default(),
        tls: tls.into(),
        ..Default::default()
    }
}
