//! Sandboxes: create, list, get, delete, pause, resume.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use model::{DiskMb, Lifetime, OnExpiry, SandboxId, Shape, ShapeRequest};
use serde::{Deserialize, Serialize};

use super::Api;
use super::error::ApiError;
use super::request::{Caller, InPath, json, read_json};
use crate::store::{NewSandbox, Sandbox};

const DEFAULT_TEMPLATE: &str = "minimal";
const DEFAULT_TIMEOUT: i64 = 300;

#[derive(Deserialize)]
struct CreateRequest {
    template: Option<String>,
    vcpus: Option<i64>,
    memory_mb: Option<i64>,
    disk_mb: Option<i64>,
    timeout_sec: Option<i64>,
}

/// A sandbox as clients see it.
#[derive(Serialize)]
struct SandboxView<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    status_reason: &'a str,
    template: &'a str,
    vcpus: u32,
    memory_mb: u32,
    disk_mb: u32,
    timeout_sec: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    guest_ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    host_ip: &'a str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active_at: Option<String>,
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

/// `POST /v1/sandboxes`
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

/// `GET /v1/sandboxes`
pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller) -> Result<Response, ApiError> {
    let sandboxes = api.store.list(&owner).await?;
    Ok(json(StatusCode::OK, &sandboxes.iter().map(SandboxView::from).collect::<Vec<_>>()))
}

/// `GET /v1/sandboxes/{id}`
pub async fn get(State(api): State<Arc<Api>>, Caller(owner): Caller, InPath(id): InPath) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.sandbox(&owner, &id).await?))
}

/// `DELETE /v1/sandboxes/{id}`
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<StatusCode, ApiError> {
    api.lifecycle.delete(owner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/sandboxes/{id}/pause`
pub async fn pause(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.lifecycle.pause(owner, id).await?))
}

/// `POST /v1/sandboxes/{id}/resume`
pub async fn resume(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    Ok(view(StatusCode::OK, &api.lifecycle.resume(owner, id).await?))
}
