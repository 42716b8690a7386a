//! Sandboxes: create, list, get, delete, pause, resume.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use model::{DiskMb, Lifetime, MemoryMb, OnExpiry, SandboxId, Shape, ShapeRequest, Status, VcpuCount};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, RecordErrors, SandboxIdParam, StoreErrors, schema};
use super::request::{Caller, InPath, json, read_json, whole};
use crate::store::{NewSandbox, Sandbox};

const DEFAULT_TEMPLATE: &str = "minimal";
const DEFAULT_TIMEOUT: i64 = 300;

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
    /// Seconds without activity after which it is removed; 0 is never.
    #[schema(default = 300, minimum = 0, maximum = 2147483647, format = Int64)]
    #[serde(default, deserialize_with = "whole")]
    timeout_sec: Option<i64>,
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
    let only = json!({"type": "integer", "enum": [DiskMb::DEFAULT.get()]});
    quantity("MiB of the root disk; only the default for now", DiskMb::DEFAULT.get(), only)
}

fn status() -> RefOr<Schema> {
    schema(json!({"type": "string", "enum": Status::ALL.map(Status::as_str)}))
}

/// A sandbox.
#[derive(Serialize, ToSchema)]
#[schema(as = Sandbox)]
struct SandboxView<'a> {
    #[schema(pattern = "^sb[a-z0-9]{20}$")]
    id: &'a str,
    #[schema(schema_with = status)]
    status: &'static str,
    /// Why it is `error` or `stopped`.
    #[serde(skip_serializing_if = "str::is_empty")]
    status_reason: &'a str,
    template: &'a str,
    vcpus: u32,
    memory_mb: u32,
    disk_mb: u32,
    /// Seconds without activity after which it is removed; 0 is never.
    timeout_sec: u32,
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
}

/// RFC 3339 in whole seconds.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl<'a> From<&'a Sandbox> for SandboxView<'a> {
    fn from(sandbox: &'a Sandbox) -> Self {
        Self {
            id: sandbox.id.as_str(),
            status: sandbox.status.as_str(),
            status_reason: &sandbox.status_reason,
            template: sandbox.template.as_str(),
            vcpus: sandbox.shape.vcpus.get(),
            memory_mb: sandbox.shape.memory.get(),
            disk_mb: sandbox.shape.disk.get(),
            timeout_sec: sandbox.lifetime.idle_seconds(),
            guest_ip: &sandbox.guest_ip,
            host_ip: &sandbox.host_ip,
            created_at: seconds(sandbox.created_at),
            started_at: sandbox.started_at.map(seconds),
            last_active_at: sandbox.last_active_at.map(seconds),
            last_updated: seconds(sandbox.last_updated),
        }
    }
}

fn view(status: StatusCode, sandbox: &Sandbox) -> Response {
    json(status, &SandboxView::from(sandbox))
}

/// Create a sandbox
///
/// Answers when its guest agent does. The work goes on when the client hangs up.
#[utoipa::path(
    post,
    path = "/v1/sandboxes",
    operation_id = "createSandbox",
    tag = "sandboxes",
    request_body = CreateRequest,
    responses((status = 201, description = "It runs", body = SandboxView<'_>), JsonErrors, HostErrors)
)]
pub async fn create(State(api): State<Arc<Api>>, Caller(owner): Caller, body: Body) -> Result<Response, ApiError> {
    let request: CreateRequest = read_json(body, api.limits.json_body).await?;
    let template = request.template.filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_TEMPLATE.to_owned());
    let shape = ShapeRequest {
        vcpus: request.vcpus.unwrap_or_default(),
        memory_mb: request.memory_mb.unwrap_or_default(),
        disk_mb: request.disk_mb.unwrap_or_default(),
    };
    let new = NewSandbox {
        id: SandboxId::random(),
        owner,
        host: api.host_id.clone(),
        template: template.parse().map_err(|error: model::InvalidTemplateName| invalid(&error))?,
        shape: available(shape.try_into().map_err(|error: model::InvalidShape| invalid(&error))?)?,
        lifetime: lifetime(request.timeout_sec.unwrap_or(DEFAULT_TIMEOUT))?,
        on_expiry: OnExpiry::Destroy,
    };
    Ok(view(StatusCode::CREATED, &api.lifecycle.create(new).await?))
}

fn invalid(error: &dyn std::error::Error) -> ApiError {
    ApiError::invalid_request(error.to_string())
}

/// Hosts cannot be asked for another disk than the default one yet: better said than ignored.
fn available(shape: Shape) -> Result<Shape, ApiError> {
    match shape.disk {
        DiskMb::DEFAULT => Ok(shape),
        other => Err(ApiError::invalid_request(format!(
            "disk_mb can only be {}, or 0 for the default; got {other}",
            DiskMb::DEFAULT
        ))),
    }
}

/// 0 is never.
fn lifetime(timeout_sec: i64) -> Result<Lifetime, ApiError> {
    match u32::try_from(timeout_sec) {
        Ok(seconds) if i32::try_from(seconds).is_ok() => Ok(Lifetime::from_idle_seconds(seconds)),
        _ => Err(ApiError::invalid_request(format!(
            "timeout_sec must be between 1 and {}, or 0 for never; got {timeout_sec}",
            i32::MAX
        ))),
    }
}

/// List sandboxes
///
/// In every status, the newest first.
#[utoipa::path(
    get,
    path = "/v1/sandboxes",
    operation_id = "listSandboxes",
    tag = "sandboxes",
    responses((status = 200, description = "All of them", body = [SandboxView<'_>]), StoreErrors)
)]
pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller) -> Result<Response, ApiError> {
    let sandboxes = api.store.list(&owner).await?;
    Ok(json(StatusCode::OK, &sandboxes.iter().map(SandboxView::from).collect::<Vec<_>>()))
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
pub async fn get(State(api): State<Arc<Api>>, Caller(owner): Caller, InPath(id): InPath) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.sandbox(&owner, &id).await?))
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
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.lifecycle.pause(owner, id).await?))
}

/// Resume a paused sandbox
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
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.lifecycle.resume(owner, id).await?))
}
