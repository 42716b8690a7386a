//! Forks of a sandbox.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::TryFutureExt;
use http::StatusCode;
use model::SandboxId;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam};
use super::request::{Caller, InPath, in_time, json, read_json, whole};
use super::sandboxes::{SandboxView, value};
use super::surface::Surface;
use crate::store::Sandbox;

/// Children of one fork.
const MOST: i64 = 100;

/// How to fork a sandbox.
#[derive(Deserialize, ToSchema)]
#[schema(as = ForkRequest)]
struct ForkRequest {
    /// How many children.
    #[schema(default = 1, minimum = 1, maximum = 100, format = Int64)]
    #[serde(default, deserialize_with = "whole")]
    count: Option<i64>,
}

/// Fork a sandbox
///
/// The children go on from where a running or paused sandbox is, with its lifetime and metadata; it goes on as it was.
/// Answers when every one of them does. Where one cannot be made, none is.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/fork",
    operation_id = "forkSandbox",
    tag = "snapshots",
    params(SandboxIdParam),
    request_body = ForkRequest,
    responses((status = 201, description = "The children run", body = [SandboxView<'_>]), JsonErrors, HostErrors)
)]
pub async fn fork(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(parent): InPath,
    body: Body,
) -> Result<Response, ApiError> {
    api.sandbox(&owner, &parent).await?;
    let request: ForkRequest = read_json(body, api.limits.json_body).await?;
    let count = match request.count.unwrap_or(1) {
        count @ 1..=MOST => count,
        other => {
            return Err(ApiError::invalid_request(format!("count must be between 1 and {MOST}; got {other}")));
        }
    };
    let children: Vec<_> = (0..count).map(|_| SandboxId::random()).collect();
    let work = api.lifecycle.fork(owner.clone(), parent, children.clone()).map_err(ApiError::from);
    let so_far = async {
        let mut recorded = Vec::with_capacity(children.len());
        for id in &children {
            recorded.extend(api.store.get(&owner, id).await?);
        }
        // None by now means that the work has just ended, or has not begun.
        Ok((!recorded.is_empty()).then(|| answer(StatusCode::ACCEPTED, surface, &recorded)))
    };
    in_time(&api, surface, work, |children| answer(StatusCode::CREATED, surface, &children), so_far).await
}

fn answer(status: StatusCode, surface: Surface, children: &[Sandbox]) -> Response {
    let children: Vec<Value> = children.iter().map(|child| value(surface, child)).collect();
    json(status, &children)
}
