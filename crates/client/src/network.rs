//! What sandboxes may reach.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::QUERY_LIMIT;
use crate::{Client, Error, SandboxId};

/// What a sandbox may reach. The default is everything that is not private.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetworkPolicy {
    /// Whether it reaches what no list names; absent is yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    /// Addresses, ranges and domains that it reaches all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_out: Vec<String>,
    /// Addresses and ranges that it does not reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_out: Vec<String>,
    /// What its names are asked of, in the place of the host's name servers; an empty list is no names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
}

/// What became of what a sandbox sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Network {
    /// Packets that went nowhere, by reason.
    #[serde(default)]
    pub denials: BTreeMap<String, u64>,
}

impl Client {
    /// What became of what a sandbox sent.
    pub async fn network(&self, id: &SandboxId) -> Result<Network, Error> {
        let request = self.request(Method::GET, &["v1", "sandboxes", id.as_str(), "network"]);
        self.call("asking for a sandbox's network").json(request, QUERY_LIMIT).await
    }

    /// Replaces what a sandbox may reach, also over connections that are open.
    pub async fn set_network(&self, id: &SandboxId, policy: &NetworkPolicy) -> Result<Network, Error> {
        let request = self.request(Method::PUT, &["v1", "sandboxes", id.as_str(), "network"]).json(policy);
        self.call("replacing a sandbox's network policy").json(request, QUERY_LIMIT).await
    }
}
