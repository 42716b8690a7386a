//! Sandboxes: create, list, get, delete, pause, stop, resume.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::TryFutureExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use model::{
    AutoResume, DiskMb, MemoryMb, Metadata, OnExpiry, OwnerId, SandboxId, ShapeRequest, SnapshotId, StartMode, Status,
    VcpuCount,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::Api;
use super::error::ApiError;
use super::idempotency::{self, KeyParam};
use super::list::{ListParams, Listing};
use super::network::{PolicyRequest, optional_policy};
use super::openapi::{HostErrors, JsonErrors, QueryErrors, RecordErrors, SandboxIdParam, StoreErrors, schema};
use super::origin::{Origin, Wish};
use super::request::{Caller, InPath, in_time, json, parse_json, read_body, whole};
use super::surface::Surface;
use crate::lifecycle::Making;
use crate::store::{NewSandbox, Sandbox, TrafficToken};

/// How long a host is asked for what somebody who asks for a record only might want to know.
const DISK_USED: Duration = Duration::from_secs(2);

/// Where a list in parts says how it goes on.
const NEXT_TOKEN: &str = "x-next-token";

/// What a sandbox shall be; every member may be absent.
#[derive(Deserialize, ToSchema)]
#[schema(as = CreateSandboxRequest)]
struct CreateRequest {
    /// What it is made from; empty means the default.
    #[schema(default = "minimal", pattern = "^([a-z0-9][a-z0-9._-]{0,63})?$")]
    template: Option<String>,
    #[schema(schema_with = vcpus)]
    #[serde(default, deserialize_with = "whole")]
    vcpus: Option<i64>,
    #[schema(schema_with = memory)]
    #[serde(default, deserialize_with = "whole")]
    memory_mb: Option<i64>,
    #[schema(schema_with = disk)]
    #[serde(default, deserialize_with = "whole")]
    disk_mb: Option<i64>,
    /// Seconds without activity after which `on_timeout` says what happens; 0 is never.
    #[schema(default = 300, minimum = 0, maximum = 2147483647, format = Int64)]
    #[serde(default, deserialize_with = "whole")]
    timeout_sec: Option<i64>,
    /// What becomes of it then.
    #[schema(schema_with = on_timeout)]
    on_timeout: Option<String>,
    /// Whether a call that needs its guest resumes it first while it is paused.
    #[schema(default = false)]
    auto_resume: Option<bool>,
    /// Whether everybody who knows its id may reach its ports; else callers must show `traffic_access_token`.
    #[schema(default = true)]
    allow_public_traffic: Option<bool>,
    /// The name or id of a snapshot that it goes on from; template and shape are then the snapshot's.
    #[schema(pattern = "^([a-zA-Z0-9][a-zA-Z0-9._-]{0,63})?$")]
    snapshot: Option<String>,
    #[schema(schema_with = metadata)]
    metadata: Option<BTreeMap<String, String>>,
    /// How it comes to be, for measurements.
    #[schema(schema_with = start)]
    start: Option<String>,
    #[schema(schema_with = optional_policy)]
    network: Option<PolicyRequest>,
}

/// The schema of a request to create.
pub fn create_request() -> serde_json::Value {
    serde_json::to_value(CreateRequest::schema()).unwrap_or_default()
}

/// 0 and `null` stand for the default.
fn quantity(what: &str, default: u32, or: serde_json::Value) -> RefOr<Schema> {
    let zero = json!({"type": ["integer", "null"], "enum": [0, null]});
    schema(json!({"description": format!("{what}; 0 means the default"), "default": default, "anyOf": [or, zero]}))
}

fn vcpus() -> RefOr<Schema> {
    let range = json!({"type": "integer", "minimum": VcpuCount::MIN, "maximum": VcpuCount::MAX});
    quantity("Virtual processors", VcpuCount::DEFAULT.get(), range)
}

fn memory() -> RefOr<Schema> {
    let range = json!({"type": "integer", "minimum": MemoryMb::MIN, "maximum": MemoryMb::MAX});
    quantity("MiB of memory", MemoryMb::DEFAULT.get(), range)
}

fn disk() -> RefOr<Schema> {
    let range = json!({"type": "integer", "minimum": DiskMb::MIN, "maximum": DiskMb::MAX});
    quantity("MiB of the root disk, not less than the template's", DiskMb::DEFAULT.get(), range)
}

fn metadata() -> RefOr<Schema> {
    schema(json!({
        "type": ["object", "null"],
        "description": "Names and values of the caller's own, by which sandboxes can be listed",
        "maxProperties": Metadata::MAX_PAIRS,
        "propertyNames": {
            "type": "string",
            "pattern": "^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$",
            "not": {"enum": Metadata::reserved()},
        },
        "additionalProperties": {"type": "string", "maxLength": Metadata::MAX_VALUE, "pattern": "^[^\\u0000]*$"},
    }))
}

fn on_timeout() -> RefOr<Schema> {
    schema(json!({
        "type": ["string", "null"],
        "description": "What becomes of it then",
        "enum": OnExpiry::ALL.map(|what| json!(what.as_str())).into_iter().chain([json!(""), json!(null)]).collect::<Vec<_>>(),
        "default": Surface::Sandboxes.on_expiry().as_str(),
    }))
}

fn start() -> RefOr<Schema> {
    schema(json!({
        "type": ["string", "null"],
        "description": "How it comes to be, for measurements: it runs the same whichever way it came. `boot` starts the \
            kernel, `restore` goes on from the image of a booted one and never takes one from the warm pool",
        "enum": StartMode::ALL.map(|mode| json!(mode.as_str())).into_iter().chain([json!(""), json!(null)]).collect::<Vec<_>>(),
        "default": StartMode::default().as_str(),
    }))
}

fn status() -> RefOr<Schema> {
    schema(json!({"type": "string", "enum": Status::ALL.map(Status::as_str)}))
}

/// A sandbox.
#[derive(Serialize, ToSchema)]
#[schema(as = Sandbox)]
pub struct SandboxView<'a> {
    #[schema(pattern = "^sb[a-z0-9]{20}$")]
    id: &'a str,
    #[schema(schema_with = status)]
    status: &'static str,
    /// Why it is `error` or `stopped`.
    #[serde(skip_serializing_if = "str::is_empty")]
    status_reason: &'a str,
    template: &'a str,
    /// The snapshot that it went on from; it may be gone, and nobody ever saw that of a fork.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_id: Option<&'a str>,
    vcpus: u32,
    memory_mb: u32,
    disk_mb: u32,
    /// Seconds without activity after which it is removed; 0 is never.
    timeout_sec: u32,
    /// What becomes of it then: `destroy`, `pause` or `stop`.
    on_timeout: &'static str,
    /// Whether a call that needs its guest resumes it first while it is paused.
    auto_resume: bool,
    /// Whether everybody who knows its id may reach its ports.
    allow_public_traffic: bool,
    /// What else they must show in the header `e2b-traffic-access-token`. Told once, when it is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_access_token: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    guest_ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host_ip: &'a str,
    #[schema(format = DateTime)]
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    last_active_at: Option<String>,
    #[schema(format = DateTime)]
    last_updated: String,
    /// As it was given when the sandbox was created.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    /// `disk_mb` under the name that capsules have it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_size_mb: Option<u32>,
    /// MiB that its own files take on its host. Of a capsule that is asked for alone, while its host can tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_used_mb: Option<u64>,
}

/// RFC 3339 in whole seconds.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl<'a> SandboxView<'a> {
    fn new(surface: Surface, sandbox: &'a Sandbox) -> Self {
        Self {
            id: sandbox.id.as_str(),
            status: sandbox.status.as_str(),
            status_reason: &sandbox.status_reason,
            template: sandbox.template.as_str(),
            snapshot_id: sandbox.snapshot.as_ref().map(SnapshotId::as_str),
            vcpus: sandbox.shape.vcpus.get(),
            memory_mb: sandbox.shape.memory.get(),
            disk_mb: sandbox.shape.disk.get(),
            timeout_sec: sandbox.lifetime.idle_seconds(),
            on_timeout: sandbox.on_expiry.as_str(),
            auto_resume: sandbox.auto_resume == AutoResume::On,
            allow_public_traffic: sandbox.traffic_token.is_none(),
            traffic_access_token: None,
            guest_ip: &sandbox.guest_ip,
            host_ip: &sandbox.host_ip,
            created_at: seconds(sandbox.created_at),
            started_at: sandbox.started_at.map(seconds),
            last_active_at: sandbox.last_active_at.map(seconds),
            last_updated: seconds(sandbox.last_updated),
            metadata: sandbox.metadata.pairs(),
            disk_size_mb: (surface == Surface::Capsules).then(|| sandbox.shape.disk.get()),
            disk_used_mb: None,
        }
    }
}

fn view(status: StatusCode, surface: Surface, sandbox: &Sandbox, token: Option<&TrafficToken>) -> Response {
    // Of a request that was made before, the token was shown then.
    let is_its_own = |token: &&TrafficToken| sandbox.traffic_token.as_ref().is_some_and(|hash| hash.is_of(token));
    let traffic_access_token = token.filter(is_its_own).map(TrafficToken::reveal);
    json(status, &SandboxView { traffic_access_token, ..SandboxView::new(surface, sandbox) })
}

/// A sandbox as JSON, where it is a part of something.
pub fn value(surface: Surface, sandbox: &Sandbox) -> serde_json::Value {
    serde_json::to_value(SandboxView::new(surface, sandbox)).unwrap_or_default()
}

/// Answers with the sandbox that `work` leads to, or with how far it is.
async fn settled(
    api: &Api,
    surface: Surface,
    done: StatusCode,
    (owner, id): (&OwnerId, &SandboxId),
    token: Option<&TrafficToken>,
    work: impl Future<Output = Result<Sandbox, ApiError>>,
) -> Result<Response, ApiError> {
    let so_far = async {
        let recorded = api.store.get(owner, id).await?;
        Ok(recorded.map(|sandbox| view(StatusCode::ACCEPTED, surface, &sandbox, token)))
    };
    in_time(api, surface, work, |sandbox| view(done, surface, &sandbox, token), so_far).await
}

/// Create a sandbox
///
/// Answers when its guest agent does. The work goes on when the client hangs up.
#[utoipa::path(
    post,
    path = "/v1/sandboxes",
    operation_id = "createSandbox",
    tag = "sandboxes",
    params(KeyParam),
    request_body = CreateRequest,
    responses((status = 201, description = "It runs", body = SandboxView<'_>), JsonErrors, HostErrors)
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read_body(body, api.limits.json_body).await?;
    let request: CreateRequest = parse_json(&body)?;
    let once = idempotency::once(&headers, &body)?;
    let wish = Wish {
        template: request.template,
        snapshot: request.snapshot,
        shape: ShapeRequest {
            vcpus: request.vcpus.unwrap_or_default(),
            memory_mb: request.memory_mb.unwrap_or_default(),
            disk_mb: request.disk_mb.unwrap_or_default(),
        },
    };
    let start = start_mode(request.start.as_deref(), &wish)?;
    let Origin { template, snapshot, shape } = api.origin(surface, &owner, wish).await?;
    let token = (request.allow_public_traffic == Some(false)).then(TrafficToken::random);
    let new = NewSandbox {
        id: SandboxId::random(),
        owner,
        host: api.host_id.clone(),
        template,
        snapshot,
        shape,
        lifetime: surface.lifetime(idle_seconds(request.timeout_sec.unwrap_or(surface.timeout()))?),
        on_expiry: match request.on_timeout.filter(|what| !what.is_empty()) {
            Some(what) => what.parse().map_err(|error: model::UnknownOnExpiry| {
                ApiError::invalid_request(format!("on_timeout is not valid: {error}"))
            })?,
            None => surface.on_expiry(),
        },
        auto_resume: if request.auto_resume.unwrap_or_default() { AutoResume::On } else { AutoResume::Off },
        traffic_token: token.as_ref().map(TrafficToken::hash),
        metadata: request
            .metadata
            .unwrap_or_default()
            .try_into()
            .map_err(|error: model::InvalidMetadata| invalid(&error))?,
        network: request.network.unwrap_or_default().policy()?,
        request_host: None,
        https_ports: Default::default(),
        guest_access: Default::default(),
        env: Default::default(),
        ends_at: None,
    };
    let (owner, id) = (new.owner.clone(), new.id.clone());
    let making = Making { while_building: surface.while_building(), start };
    let work = api.lifecycle.create(new, making, once).map_err(ApiError::from);
    settled(&api, surface, StatusCode::CREATED, (&owner, &id), token.as_ref(), work).await
}

fn invalid(error: &dyn std::error::Error) -> ApiError {
    ApiError::invalid_request(error.to_string())
}

/// What came from a snapshot has booted long ago.
fn start_mode(start: Option<&str>, wish: &Wish) -> Result<StartMode, ApiError> {
    let not_valid = |error: model::UnknownStartMode| ApiError::invalid_request(format!("start is not valid: {error}"));
    let mode = start.filter(|mode| !mode.is_empty()).map_or(Ok(StartMode::Auto), str::parse).map_err(not_valid)?;
    let is_from_snapshot = wish.snapshot.as_deref().is_some_and(|name| !name.is_empty());
    match mode {
        StartMode::Boot if is_from_snapshot => {
            Err(ApiError::invalid_request("a sandbox from a snapshot cannot be booted"))
        }
        mode => Ok(mode),
    }
}

/// 0 is never.
fn idle_seconds(timeout_sec: i64) -> Result<u32, ApiError> {
    match u32::try_from(timeout_sec) {
        Ok(seconds) if i32::try_from(seconds).is_ok() => Ok(seconds),
        _ => Err(ApiError::invalid_request(format!(
            "timeout_sec must be between 1 and {}, or 0 for never; got {timeout_sec}",
            i32::MAX
        ))),
    }
}

/// List sandboxes
///
/// In every status, the newest first. The whole list, unless `limit` asks for a part of it.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    operation_id = "listSandboxes",
    tag = "sandboxes",
    params(ListParams),
    responses(
        (
            status = 200,
            description = "Those that match",
            body = [SandboxView<'_>],
            headers(("X-Next-Token" = String, description = "`next_token` of the next part, if there is one"))
        ),
        QueryErrors,
        StoreErrors
    )
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    Listing(mut filter): Listing,
) -> Result<Response, ApiError> {
    if filter.statuses.is_empty() {
        filter.statuses = surface.listed();
    }
    let page = api.store.list(&owner, &filter).await?;
    let mut response = json(
        StatusCode::OK,
        &page.sandboxes.iter().map(|sandbox| SandboxView::new(surface, sandbox)).collect::<Vec<_>>(),
    );
    if let Some(Ok(next)) = page.next.map(|next| HeaderValue::try_from(next.to_string())) {
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    Ok(response)
}

/// Look at a sandbox
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}",
    operation_id = "getSandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 200, description = "Its record", body = SandboxView<'_>), RecordErrors)
)]
pub async fn get(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    let sandbox = api.sandbox(&owner, &id).await?;
    let mut shown = SandboxView::new(surface, &sandbox);
    if surface == Surface::Capsules && matches!(sandbox.status, Status::Running | Status::Paused) {
        shown.disk_used_mb = disk_used_mb(&api, &id).await;
    }
    Ok(json(StatusCode::OK, &shown))
}

/// What its host says. A record is worth showing without, and soon.
async fn disk_used_mb(api: &Api, id: &SandboxId) -> Option<u64> {
    let found = tokio::time::timeout(DISK_USED, api.host.find(id)).await.ok()?.ok()?;
    found.map(|sandbox| sandbox.disk_bytes.div_ceil(1 << 20))
}

/// Delete a sandbox
///
/// Legal in every status and as often as one likes.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{id}",
    operation_id = "destroySandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 204, description = "Nothing of it is left on its host"), HostErrors)
)]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<StatusCode, ApiError> {
    api.lifecycle.delete(owner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a running sandbox
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/pause",
    operation_id = "pauseSandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 200, description = "It is paused", body = SandboxView<'_>), HostErrors)
)]
pub async fn pause(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    let work = api.lifecycle.pause(owner.clone(), id.clone()).map_err(ApiError::from);
    settled(&api, surface, StatusCode::OK, (&owner, &id), None, work).await
}

/// Stop a running or paused sandbox
///
/// Its disk alone is kept: its status is then `stopped`, and resuming boots it from that. What its programs had not
/// written is lost.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/stop",
    operation_id = "stopSandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 200, description = "It is stopped", body = SandboxView<'_>), HostErrors)
)]
pub async fn stop(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    let work = api.lifecycle.stop(owner.clone(), id.clone()).map_err(ApiError::from);
    settled(&api, surface, StatusCode::OK, (&owner, &id), None, work).await
}

/// Resume a paused sandbox, or start a stopped one whose disk was kept
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/resume",
    operation_id = "resumeSandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 200, description = "It runs again", body = SandboxView<'_>), HostErrors)
)]
pub async fn resume(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    let work = api.lifecycle.resume(owner.clone(), id.clone()).map_err(ApiError::from);
    settled(&api, surface, StatusCode::OK, (&owner, &id), None, work).await
}
