//! A sign of life in both directions: the guest answers, and the sandbox counts as used.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, SandboxIdParam};
use super::request::{Caller, InPath};

/// Keep a sandbox in use
///
/// Its time without activity begins anew.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/ping",
    operation_id = "pingSandbox",
    tag = "sandboxes",
    params(SandboxIdParam),
    responses((status = 204, description = "It answers"), HostErrors)
)]
pub async fn ping(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<StatusCode, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    api.host.ping(&id).await?;
    api.touch(&sandbox).await;
    Ok(StatusCode::NO_CONTENT)
}
