//! What sandboxes may reach and who may reach them.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use model::{HeaderWords, InvalidPolicy, NetworkPolicy, PolicyWords, ProxyTls, ProxyWords};
use serde::Deserialize;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, Given};
use super::super::{egress_proxy, request_headers};
use super::error::{absent, told};
use super::sandboxes::{Named, find_to_change, optional_body};
use crate::https_ports::HttpsPorts;
use crate::proxy::GUEST_PORT;
use crate::request_host::{InvalidRequestHost, RequestHost};

/// What clients look for where names are allowed and nothing is denied.
const NAMES_WITHOUT_DENIAL: &str = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny \
                                    out to block all other traffic.";

/// What stands for something that is kept elsewhere begins with this.
const PLACEHOLDER: &str = "${e2b.";

/// The network of a sandbox, as a create has it. An update has the first members only.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRequest {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    rules: Option<BTreeMap<String, Vec<Rule>>>,
    egress_proxy: Option<ProxyRequest>,
    dns_servers: Option<Vec<String>>,
    allow_public_traffic: Option<bool>,
    mask_request_host: Option<String>,
    https_ports: Option<Vec<u16>>,
}

/// The proxy of a sandbox's owner.
#[derive(Debug, Deserialize)]
struct ProxyRequest {
    address: String,
    username: Option<String>,
    password: Option<Given>,
    tls: Option<TlsRequest>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TlsRequest {
    enabled: bool,
    server_name: Option<String>,
    ca_cert: Option<String>,
}

/// What is done to requests to a host.
#[derive(Debug, Deserialize)]
struct Rule {
    transform: Option<Transform>,
}

#[derive(Debug, Deserialize)]
struct Transform {
    headers: Option<BTreeMap<String, Given>>,
}

/// The headers that rules give to requests.
fn headers(rules: BTreeMap<String, Vec<Rule>>) -> Result<HeaderWords, ApiError> {
    let of_host = |(domain, rules): (String, Vec<Rule>)| {
        let mut transforms = rules.into_iter().filter_map(|rule| rule.transform);
        let headers = transforms.next().and_then(|transform| transform.headers).unwrap_or_default();
        if transforms.next().is_some() {
            return Err(ApiError::invalid_request(format!("rules: {domain} may have one transform")));
        }
        match headers.values().any(|value| value.0.contains(PLACEHOLDER)) {
            true => Err(absent("secrets and identity tokens in the headers of rules")),
            false => Ok((domain, headers)),
        }
    };
    request_headers::words(rules.into_iter().map(of_host).collect::<Result<_, _>>()?)
}

impl ProxyRequest {
    fn words(self) -> Result<ProxyWords, ApiError> {
        let tls = match self.tls {
            None | Some(TlsRequest { enabled: false, server_name: None, ca_cert: None }) => None,
            Some(TlsRequest { enabled: false, .. }) => {
                return Err(ApiError::invalid_request("egressProxy: tls that is not enabled has nothing else"));
            }
            Some(TlsRequest { server_name, ca_cert, .. }) => Some(ProxyTls { server_name, ca_cert }),
        };
        let Self { address, username, password, .. } = self;
        egress_proxy::words(ProxyWords { address, username, password, tls })
    }
}

impl NetworkRequest {
    /// Whether callers of its ports are to show a token.
    pub fn is_private(&self) -> bool {
        self.allow_public_traffic == Some(false)
    }

    /// The Host that servers in it are to see.
    pub fn request_host(&self) -> Result<Option<RequestHost>, ApiError> {
        let wanted = self.mask_request_host.as_ref().filter(|text| !text.is_empty());
        let parsed = wanted.map(|text| text.parse()).transpose();
        parsed.map_err(|error: InvalidRequestHost| ApiError::invalid_request(format!("maskRequestHost: {error}")))
    }

    /// The ports whose servers in it speak TLS.
    pub fn https_ports(&self) -> Result<HttpsPorts, ApiError> {
        let ports = self.https_ports.iter().flatten();
        let checked = ports.map(|port| NonZeroU16::new(*port).filter(|port| port.get() != GUEST_PORT));
        checked.collect::<Option<_>>().ok_or_else(|| {
            ApiError::invalid_request(format!("httpsPorts: a port is between 1 and 65535, and not {}", GUEST_PORT))
        })
    }

    /// What the sandbox may reach.
    pub fn policy(self, allow_internet_access: Option<bool>) -> Result<NetworkPolicy, ApiError> {
        let words = PolicyWords {
            allow_internet_access: allow_internet_access != Some(false),
            allow_out: self.allow_out.unwrap_or_default(),
            deny_out: self.deny_out.unwrap_or_default(),
            dns_servers: self.dns_servers,
            egress_proxy: self.egress_proxy.map(ProxyRequest::words).transpose()?,
            request_headers: headers(self.rules.unwrap_or_default())?,
        };
        NetworkPolicy::new(words).map_err(|error| match error {
            InvalidPolicy::DomainsWithoutDenial => ApiError::invalid_request(NAMES_WITHOUT_DENIAL),
            other => ApiError::invalid_request(other.to_string()),
        })
    }
}

#[derive(Deserialize)]
struct UpdateRequest {
    #[serde(flatten)]
    network: NetworkRequest,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
}

pub async fn replace(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let request: UpdateRequest = optional_body(&api, body).await?;
    find_to_change(&api, &owner, &id).await?;
    let policy = request.network.policy(request.allow_internet_access)?;
    api.lifecycle.set_network(owner, id.clone(), policy).await.map_err(|error| told(&id, error))?;
    Ok(StatusCode::NO_CONTENT)
}
