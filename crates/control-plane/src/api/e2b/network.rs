//! What sandboxes may reach and who may reach them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use model::{InternetAccess, InvalidPolicy, NetworkPolicy};
use serde::Deserialize;
use serde_json::Value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::Caller;
use super::error::{absent, told};
use super::sandboxes::{Named, find_to_change, optional_body};
use crate::request_host::{InvalidRequestHost, RequestHost};

/// What clients look for where names are allowed and nothing is denied.
const NAMES_WITHOUT_DENIAL: &str = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny \
                                    out to block all other traffic.";

/// The network of a sandbox, as a create has it. An update has the first members only.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRequest {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    rules: Option<BTreeMap<String, Value>>,
    egress_proxy: Option<Value>,
    dns_servers: Option<Vec<String>>,
    allow_public_traffic: Option<bool>,
    mask_request_host: Option<String>,
    https_ports: Option<Vec<u16>>,
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

    /// What the sandbox may reach.
    pub fn policy(self, allow_internet_access: Option<bool>) -> Result<NetworkPolicy, ApiError> {
        let is_given = |list: Option<usize>| list.is_some_and(|length| length > 0);
        if is_given(self.rules.as_ref().map(BTreeMap::len)) {
            return Err(absent("rules that change requests on their way"));
        }
        if self.egress_proxy.is_some() {
            return Err(absent("proxies for what leaves a sandbox"));
        }
        if is_given(self.dns_servers.as_ref().map(Vec::len)) {
            return Err(absent("a sandbox's own name servers"));
        }
        if is_given(self.https_ports.as_ref().map(Vec::len)) {
            return Err(absent("ports of a sandbox that speak TLS"));
        }
        let internet = if allow_internet_access == Some(false) { InternetAccess::Off } else { InternetAccess::On };
        let (allow, deny) = (self.allow_out.unwrap_or_default(), self.deny_out.unwrap_or_default());
        NetworkPolicy::new(internet, &allow, &deny).map_err(|error| match error {
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
