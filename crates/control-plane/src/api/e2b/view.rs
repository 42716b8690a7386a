//! Sandboxes as clients of E2B see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{AutoResume, InternetAccess, OnExpiry, Status, Untold};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::{Api, egress_proxy};
use super::CONTRACT;
use crate::domain::Domain;
use crate::store::{AccessToken, Sandbox, StoreError, TrafficToken};

/// Deprecated in the contract, and still asked for.
const CLIENT: &str = "sandpiper";

/// In the place of a value that is not told.
const UNTOLD: &str = "***";

/// What a client needs to speak with a sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxView<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: &'a str,
    envd_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    traffic_access_token: Option<String>,
    domain: Option<String>,
}

impl<'a> SandboxView<'a> {
    /// A sandbox, with its tokens and the domain below which its ports have names.
    pub fn new(api: &Api, sandbox: &'a Sandbox) -> Result<Self, StoreError> {
        let token = api.store.access_token(sandbox)?;
        let traffic = token.as_ref().map(AccessToken::traffic_token);
        // A sandbox that was made elsewhere of this one may have another's.
        let is_its_own = |token: &TrafficToken| sandbox.traffic_token.as_ref().is_some_and(|hash| hash.is_of(token));
        Ok(Self {
            template_id: sandbox.template.as_str(),
            sandbox_id: sandbox.id.as_str(),
            client_id: CLIENT,
            alias: sandbox.template.as_str(),
            envd_version: CONTRACT,
            envd_access_token: token.map(|token| token.reveal().to_owned()),
            traffic_access_token: traffic.filter(is_its_own).map(|token| token.reveal().to_owned()),
            domain: api.domain.as_ref().map(ToString::to_string),
        })
    }
}

/// What a list says of a sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: &'a str,
    started_at: String,
    end_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    state: &'static str,
    envd_version: &'static str,
    metadata: &'a BTreeMap<String, String>,
    volume_mounts: [(); 0],
}

impl<'a> From<&'a Sandbox> for Listed<'a> {
    fn from(sandbox: &'a Sandbox) -> Self {
        Self {
            template_id: sandbox.template.as_str(),
            sandbox_id: sandbox.id.as_str(),
            client_id: CLIENT,
            alias: sandbox.template.as_str(),
            started_at: sandbox.created_at.to_string(),
            end_at: sandbox.ends_at.unwrap_or(Timestamp::MAX).to_string(),
            cpu_count: sandbox.shape.vcpus.get(),
            memory_mb: sandbox.shape.memory.get(),
            disk_size_mb: sandbox.shape.disk.get(),
            state: state(sandbox),
            envd_version: CONTRACT,
            metadata: sandbox.metadata.pairs(),
            volume_mounts: [],
        }
    }
}

/// All that is told of one sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail<'a> {
    #[serde(flatten)]
    listed: Listed<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<&'a str>,
    domain: Option<String>,
    allow_internet_access: bool,
    network: Value,
    lifecycle: Value,
    /// What is kept of one that is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_mode: Option<&'static str>,
}

impl<'a> Detail<'a> {
    /// A sandbox with this token, whose ports have names below `domain`.
    pub fn new(sandbox: &'a Sandbox, token: Option<&'a AccessToken>, domain: Option<&Domain>) -> Self {
        let on_timeout = match sandbox.on_expiry {
            OnExpiry::Destroy => "kill",
            OnExpiry::Pause | OnExpiry::Stop => "pause",
        };
        let auto_resume = sandbox.auto_resume == AutoResume::On;
        Self {
            listed: sandbox.into(),
            envd_access_token: token.map(AccessToken::reveal),
            domain: domain.map(ToString::to_string),
            allow_internet_access: sandbox.network.internet() == InternetAccess::On,
            network: network(sandbox),
            lifecycle: json!({"onTimeout": on_timeout, "autoResume": auto_resume}),
            pause_mode: match sandbox.status {
                Status::Paused => Some("full"),
                Status::Stopped => Some("filesystem"),
                _ => None,
            },
        }
    }
}

fn network(sandbox: &Sandbox) -> Value {
    let policy = sandbox.network.clone().untold();
    let (words, allow_public_traffic) = (policy.words(), sandbox.traffic_token.is_none());
    let mut network =
        json!({"allowOut": words.allow_out, "denyOut": words.deny_out, "allowPublicTraffic": allow_public_traffic});
    if let Some(proxy) = policy.proxy().map(egress_proxy::shown) {
        network["egressProxy"] = json!({"address": proxy.address});
        if let Some(username) = proxy.username {
            network["egressProxy"]["username"] = json!(username);
        }
        if let Some(tls) = proxy.tls {
            network["egressProxy"]["tls"] = json!({"enabled": true});
            if let Some(name) = tls.server_name {
                network["egressProxy"]["tls"]["serverName"] = json!(name);
            }
        }
    }
    if !words.request_headers.is_empty() {
        let rules = words.request_headers.into_iter();
        network["rules"] = rules.map(|(domain, headers)| (domain, rule(headers))).collect();
    }
    if let Some(servers) = words.dns_servers {
        network["dnsServers"] = json!(servers);
    }
    let https_ports = sandbox.https_ports.numbers();
    if !https_ports.is_empty() {
        network["httpsPorts"] = json!(https_ports);
    }
    if let Some(host) = &sandbox.request_host {
        network["maskRequestHost"] = json!(host.as_str());
    }
    network
}

/// What requests to a host get, without the values.
fn rule(headers: BTreeMap<String, Untold>) -> Value {
    let headers: BTreeMap<_, _> = headers.into_keys().map(|name| (name, UNTOLD)).collect();
    json!([{"transform": {"headers": headers}}])
}

/// What runs, or soon will, is running; whatever can be woken is paused.
fn state(sandbox: &Sandbox) -> &'static str {
    match sandbox.status {
        Status::Pausing | Status::Paused | Status::Stopped => PAUSED,
        _ => RUNNING,
    }
}

pub const RUNNING: &str = "running";
pub const PAUSED: &str = "paused";

/// The statuses that are shown as this state.
pub fn statuses(state: &str) -> Option<&'static [Status]> {
    match state {
        RUNNING => Some(&[Status::Running, Status::Snapshotting, Status::Resuming, Status::Missing]),
        PAUSED => Some(&[Status::Paused, Status::Pausing, Status::Stopped]),
        _ => None,
    }
}
