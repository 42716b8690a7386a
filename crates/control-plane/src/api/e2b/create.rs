//! Creating a sandbox. The two versions differ in defaults and in who chooses whether it is secure.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use model::{AutoResume, Lifetime, Metadata, OnExpiry, OwnerId, SandboxId, ShapeRequest, StartMode};
use serde::Deserialize;
use serde_json::Value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::idempotency;
use super::super::origin::{Origin, Wish};
use super::super::request::{Caller, json, parse_json, read_body, without_nul};
use super::super::surface::Surface;
use super::error::absent;
use super::network::NetworkRequest;
use super::time;
use super::view::SandboxView;
use crate::lifecycle::{Making, WhileBuilding, after};
use crate::store::{AccessToken, GuestAccess, NewSandbox};

/// Its template may be about to be built: these clients ask again by themselves.
const MAKING: Making = Making { while_building: WhileBuilding::Refuse, start: StartMode::Auto };

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateRequest {
    #[serde(rename = "templateID")]
    template_id: String,
    timeout: Option<i64>,
    auto_pause: Option<bool>,
    auto_pause_memory: Option<bool>,
    auto_resume: Option<AutoResumeRequest>,
    secure: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<NetworkRequest>,
    metadata: Option<BTreeMap<String, String>>,
    env_vars: Option<BTreeMap<String, String>>,
    mcp: Option<BTreeMap<String, Value>>,
    iam: Option<IamRequest>,
    volume_mounts: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct AutoResumeRequest {
    enabled: bool,
}

#[derive(Deserialize)]
struct IamRequest {
    tokens: Option<BTreeMap<String, Value>>,
}

/// What the versions differ in.
struct Version {
    timeout: i64,
    /// Whether a request may ask for a sandbox that is open to everybody.
    may_be_open: bool,
}

pub async fn v1(api: State<Arc<Api>>, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    create(api, caller, headers, body, Version { timeout: 15, may_be_open: true }).await
}

pub async fn v2(api: State<Arc<Api>>, caller: Caller, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    create(api, caller, headers, body, Version { timeout: 300, may_be_open: false }).await
}

async fn create(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    headers: HeaderMap,
    body: Body,
    version: Version,
) -> Result<Response, ApiError> {
    let body = read_body(body, api.limits.json_body).await?;
    let request: CreateRequest = parse_json(&body)?;
    let once = idempotency::once(&headers, &body)?;
    let origin = origin(&api, &owner, &request.template_id).await?;
    let new = request.sandbox(&api, owner, origin, &version)?;
    let sandbox = api.lifecycle.create(new, MAKING, once).await?;
    Ok(json(StatusCode::CREATED, &SandboxView::new(&api, &sandbox)?))
}

/// What a template's id stands for: a template, or a snapshot.
async fn origin(api: &Api, owner: &OwnerId, text: &str) -> Result<Origin, ApiError> {
    let name = api.untagged(owner, text).await?.to_string();
    let wish = Wish { template: Some(name), snapshot: None, shape: ShapeRequest::default() };
    api.origin(Surface::Capsules, owner, wish).await
}

impl CreateRequest {
    fn sandbox(self, api: &Api, owner: OwnerId, origin: Origin, version: &Version) -> Result<NewSandbox, ApiError> {
        self.check_offered()?;
        let guest_access = match self.secure {
            Some(false) if version.may_be_open => GuestAccess::Open,
            None if version.may_be_open => GuestAccess::Open,
            _ => GuestAccess::Token(AccessToken::random()),
        };
        let on_expiry = match (self.auto_pause, self.auto_pause_memory) {
            (Some(true), Some(false)) => OnExpiry::Stop,
            (Some(true), _) => OnExpiry::Pause,
            _ => OnExpiry::Destroy,
        };
        let auto_resume = self.auto_resume.as_ref().is_some_and(|wish| wish.enabled);
        let network = self.network.unwrap_or_default();
        let traffic_token = match (network.is_private(), guest_access.token()) {
            (false, _) => None,
            (true, Some(token)) => Some(token.traffic_token().hash()),
            (true, None) => {
                return Err(ApiError::invalid_request("allowPublicTraffic can be false for a secured sandbox only"));
            }
        };
        let time = time::positive(self.timeout.unwrap_or(version.timeout))?;
        Ok(NewSandbox {
            id: SandboxId::random(),
            owner,
            host: api.host_id.clone(),
            template: origin.template,
            snapshot: origin.snapshot,
            shape: origin.shape,
            lifetime: Lifetime::Never,
            on_expiry,
            auto_resume: if auto_resume { AutoResume::On } else { AutoResume::Off },
            traffic_token,
            metadata: Metadata::of_any_text(self.metadata.unwrap_or_default())
                .map_err(|error| ApiError::invalid_request(error.to_string()))?,
            request_host: network.request_host()?,
            https_ports: network.https_ports()?,
            network: network.policy(self.allow_internet_access)?,
            guest_access,
            env: checked(self.env_vars.unwrap_or_default())?,
            // Its time begins with the request: what making it takes is part of it.
            ends_at: Some(after(time)),
        })
    }

    fn check_offered(&self) -> Result<(), ApiError> {
        if self.auto_pause_memory == Some(false) {
            if self.auto_pause != Some(true) {
                return Err(ApiError::invalid_request("autoPauseMemory needs autoPause"));
            }
            if self.auto_resume.as_ref().is_some_and(|wish| wish.enabled) {
                return Err(ApiError::invalid_request("a sandbox without memory cannot be resumed by traffic"));
            }
        }
        if self.mcp.is_some() {
            return Err(absent("MCP gateways"));
        }
        if self.iam.as_ref().and_then(|iam| iam.tokens.as_ref()).is_some_and(|tokens| !tokens.is_empty()) {
            return Err(absent("identity tokens"));
        }
        if self.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()) {
            return Err(absent("volumes"));
        }
        Ok(())
    }
}

fn checked(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
    for (name, value) in &env {
        without_nul("envVars", value)?;
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid_request("a name in envVars must have characters, and no '=' or NUL"));
        }
    }
    Ok(env)
}
