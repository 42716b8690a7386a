//! What a sandbox may reach: looked at, and replaced while it is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::{InternetAccess, NetworkPolicy, Status};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam, schema};
use super::request::{Caller, InPath, json as json_answer, read_json};
use crate::host::HostNetwork;
use crate::lifecycle::LifecycleError;

/// What a sandbox may reach, in the words of a request; what is absent is the default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = NetworkPolicy)]
pub struct PolicyRequest {
    /// Whether it reaches what no list names.
    #[schema(default = true)]
    allow_internet_access: Option<bool>,
    #[schema(schema_with = allow_out)]
    allow_out: Option<Vec<String>>,
    #[schema(schema_with = deny_out)]
    deny_out: Option<Vec<String>>,
}

fn allow_out() -> RefOr<Schema> {
    schema(json!({
        "type": ["array", "null"],
        "description": "Addresses and ranges that it reaches whatever `deny_out` says, and domains (`example.com`, \
            `*.example.com`), which need all else denied",
        "maxItems": NetworkPolicy::MOST_ENTRIES,
        "items": {"type": "string", "maxLength": 260},
    }))
}

fn deny_out() -> RefOr<Schema> {
    schema(json!({
        "type": ["array", "null"],
        "description": "Addresses and ranges that it does not reach; `0.0.0.0/0` is all",
        "maxItems": NetworkPolicy::MOST_ENTRIES,
        "items": {"type": "string", "maxLength": 260},
    }))
}

impl PolicyRequest {
    /// What is asked for.
    pub fn policy(self) -> Result<NetworkPolicy, ApiError> {
        let internet = match self.allow_internet_access.unwrap_or(true) {
            true => InternetAccess::On,
            false => InternetAccess::Off,
        };
        let (allow, deny) = (self.allow_out.unwrap_or_default(), self.deny_out.unwrap_or_default());
        NetworkPolicy::new(internet, &allow, &deny)
            .map_err(|error| ApiError::invalid_request(format!("network is not valid: {error}")))
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
    /// How often this was replaced.
    policy_changes: u64,
    /// Packets that went nowhere since its network was made: `fenced` (to private ranges, the host, other sandboxes),
    /// `denied` (by the policy), `spoofed`, `not_ipv4`, `connections` (too many), `bandwidth` (too much), `names` (not
    /// allowed, or asked for at another's address).
    denials: BTreeMap<&'static str, u64>,
}

fn view(network: HostNetwork) -> Response {
    let policy = &network.policy;
    let view = View {
        allow_internet_access: policy.internet() == InternetAccess::On,
        allow_out: policy.allowed().iter().map(ToString::to_string).collect(),
        deny_out: policy.denied().iter().map(ToString::to_string).collect(),
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
        return Err(LifecycleError::NotRunning(sandbox.status).into());
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
