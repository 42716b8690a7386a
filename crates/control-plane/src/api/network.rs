//! What a sandbox may reach: looked at, and replaced while it is there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::{DomainPattern, EgressProxy, NetworkPolicy, PolicyWords, Range, RequestHeaders, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Api;
use super::egress_proxy;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam, schema};
use super::request::{Caller, InPath, json as json_answer, read_json};
use super::request_headers;
use crate::host::HostNetwork;
use crate::lifecycle::LifecycleError;

/// What a sandbox may reach, in the words of a request; what is absent is the default.
#[derive(Debug, Default, Deserialize)]
pub struct PolicyRequest {
    allow_internet_access: Option<bool>,
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    dns_servers: Option<Vec<String>>,
    #[serde(default, deserialize_with = "egress_proxy::object")]
    egress_proxy: Option<egress_proxy::Request>,
    request_headers: Option<request_headers::Request>,
}

impl PartialSchema for PolicyRequest {
    fn schema() -> RefOr<Schema> {
        schema(json!({"description": DESCRIPTION, "anyOf": policies()}))
    }
}

impl ToSchema for PolicyRequest {
    fn name() -> Cow<'static, str> {
        "NetworkPolicy".into()
    }
}

/// The schema of a policy that may be absent.
pub fn optional_policy() -> RefOr<Schema> {
    let with_none: Vec<_> = policies().into_iter().chain([json!({"type": "null"})]).collect();
    schema(json!({"description": DESCRIPTION, "anyOf": with_none}))
}

const DESCRIPTION: &str = "What a sandbox may reach; what is absent is the default. Domains in `allow_out` need everything else \
                           denied, by one word or the other";

/// Without domains, or with everything else denied in either way.
fn policies() -> [Value; 3] {
    let range = json!({"type": "string", "pattern": Range::PATTERN});
    let domain = json!({"type": "string", "pattern": DomainPattern::PATTERN, "maxLength": DomainPattern::LONGEST});
    let destination = json!({"anyOf": [range, domain]});
    let list = |description: &str, items: &Value| {
        let kinds = ["array", "null"];
        json!({"type": kinds, "description": description, "maxItems": NetworkPolicy::MOST_ENTRIES, "items": items})
    };
    let allow_out = |items| {
        let description =
            "Addresses, ranges and domains (`example.com`, `*.example.com`) that it reaches whatever else is said";
        list(description, items)
    };
    let deny_out = list("Addresses and ranges that it does not reach; `0.0.0.0/0` is all", &range);
    let dns_servers = json!({
        "type": ["array", "null"],
        "description": "The name servers that its names are asked of, in the place of the host's; an empty list is no names. One \
                        that is private or denied is not asked",
        "maxItems": NetworkPolicy::MOST_NAME_SERVERS,
        "items": {"type": "string", "pattern": Range::ADDRESS_PATTERN},
    });
    let login = json!({"type": ["string", "null"], "minLength": 1, "maxLength": EgressProxy::LONGEST_LOGIN});
    let egress_proxy = json!({
        "type": ["object", "null"],
        "description": "A SOCKS5 proxy of the sandbox's owner, at a public address, that its TCP connections go out through \
                        once they are allowed, and not at all where it does not serve. Its password is never told again",
        "required": ["address"],
        "additionalProperties": false,
        "properties": {
            "address": {"type": "string", "description": "`host:port`", "example": "proxy.example.com:1080"},
            "username": login,
            "password": login,
            "tls": {
                "type": ["object", "null"],
                "description": "TLS to the proxy; absent is none",
                "additionalProperties": false,
                "properties": {
                    "server_name": {
                        "type": ["string", "null"],
                        "description": "Whose certificate it shows; absent is the host of its address",
                    },
                    "ca_cert": {
                        "type": ["string", "null"],
                        "description": "The authorities that are believed, in PEM; absent is those that the host believes",
                        "maxLength": EgressProxy::LONGEST_CA,
                    },
                },
            },
        },
    });
    let headers = json!({
        "type": "object",
        "maxProperties": RequestHeaders::MOST_HEADERS,
        "propertyNames": {"type": "string", "pattern": RequestHeaders::NAME_PATTERN},
        "additionalProperties": {"type": "string", "maxLength": RequestHeaders::LONGEST_VALUE},
    });
    let request_headers = json!({
        "type": ["object", "null"],
        "description": "Headers that its requests by HTTP and HTTPS, to ports 80 and 443, get on their way out, by the domain of \
                        their host (`example.com`, `*.example.com`) and by their names; in the place of the request's own of those \
                        names. What it reaches is another matter. Values are never told again",
        "maxProperties": RequestHeaders::MOST_DOMAINS,
        "propertyNames": {"type": "string", "pattern": DomainPattern::PATTERN, "maxLength": RequestHeaders::LONGEST_DOMAIN},
        "additionalProperties": headers,
        "example": {"api.example.com": {"Authorization": "Bearer ..."}},
    });
    let internet = "Whether it reaches what no list names";
    let switch = json!({"type": ["boolean", "null"], "description": internet, "default": true});
    let policy = |required: &[&str], allow_internet_access: &Value, allow_out: Value, deny_out: &Value| {
        json!({
            "type": "object",
            "required": required,
            "properties": {
                "allow_internet_access": allow_internet_access,
                "allow_out": allow_out,
                "deny_out": deny_out,
                "dns_servers": dns_servers,
                "egress_proxy": egress_proxy,
                "request_headers": request_headers,
            },
        })
    };
    let off = json!({"type": "boolean", "description": internet, "enum": [false]});
    let all = json!({"type": "array", "description": "Everything", "enum": [[Range::ALL.to_string()]]});
    [
        policy(&[], &switch, allow_out(&range), &deny_out),
        policy(&["allow_internet_access"], &off, allow_out(&destination), &deny_out),
        policy(&["deny_out"], &switch, allow_out(&destination), &all),
    ]
}

impl PolicyRequest {
    /// What is asked for.
    pub fn policy(self) -> Result<NetworkPolicy, ApiError> {
        let words = PolicyWords {
            allow_internet_access: self.allow_internet_access.unwrap_or(true),
            allow_out: self.allow_out.unwrap_or_default(),
            deny_out: self.deny_out.unwrap_or_default(),
            dns_servers: self.dns_servers,
            egress_proxy: self.egress_proxy.map(egress_proxy::Request::words).transpose()?,
            request_headers: request_headers::words(self.request_headers.unwrap_or_default())?,
        };
        NetworkPolicy::new(words).map_err(|error| ApiError::invalid_request(format!("network is not valid: {error}")))
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = SandboxNetwork)]
struct View {
    /// Whether it reaches what no list names.
    allow_internet_access: bool,
    /// What it reaches all the same.
    allow_out: Vec<String>,
    /// What it does not reach.
    deny_out: Vec<String>,
    /// The name servers that its names are asked of; absent where those are the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_servers: Option<Vec<String>>,
    /// The proxy that its connections go out through; absent where they go out by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_proxy: Option<egress_proxy::Shown>,
    /// The names of the headers that its requests get on their way, by the domain of their host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    request_headers: BTreeMap<String, Vec<String>>,
    /// How often this was replaced.
    policy_changes: u64,
    /// Packets that went nowhere since its network was made: `fenced` (to private ranges, the host, other sandboxes),
    /// `denied` (by the policy), `spoofed`, `not_ipv4`, `connections` (too many), `bandwidth` (too much), `names` (not
    /// allowed, or asked for at another's address).
    denials: BTreeMap<&'static str, u64>,
}

fn view(network: HostNetwork) -> Response {
    let words = network.policy.words();
    let headers = words.request_headers.into_iter();
    let view = View {
        allow_internet_access: words.allow_internet_access,
        allow_out: words.allow_out,
        deny_out: words.deny_out,
        dns_servers: words.dns_servers,
        egress_proxy: network.policy.proxy().map(egress_proxy::shown),
        request_headers: headers.map(|(domain, headers)| (domain, headers.into_keys().collect())).collect(),
        policy_changes: network.policy_changes,
        denials: network.denials.into_iter().collect(),
    };
    json_answer(StatusCode::OK, &view)
}

/// Look at what a sandbox may reach
///
/// And at what it tried beside that. Of a running or paused sandbox.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/network",
    operation_id = "getSandboxNetwork",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 200, description = "As it is now", body = View), HostErrors)
)]
pub async fn get(State(api): State<Arc<Api>>, Caller(owner): Caller, InPath(id): InPath) -> Result<Response, ApiError> {
    let sandbox = api.sandbox(&owner, &id).await?;
    if !matches!(sandbox.status, Status::Running | Status::Paused) {
        return Err(LifecycleError::not_running(&sandbox).into());
    }
    Ok(view(api.host.network(&id).await?))
}

/// Replace what a sandbox may reach
///
/// What is absent is the default. Holds at once, also for connections that are open.
#[utoipa::path(
    put,
    path = "/v1/sandboxes/{id}/network",
    operation_id = "setSandboxNetwork",
    tag = "sandboxes",
    params(SandboxIdParam),
    request_body = PolicyRequest,
    responses((status = 200, description = "It holds", body = View), JsonErrors, HostErrors)
)]
pub async fn put(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    body: Body,
) -> Result<Response, ApiError> {
    api.sandbox(&owner, &id).await?;
    let request: PolicyRequest = read_json(body, api.limits.json_body).await?;
    let policy = request.policy()?;
    Ok(view(api.lifecycle.set_network(owner, id, policy).await?))
}
