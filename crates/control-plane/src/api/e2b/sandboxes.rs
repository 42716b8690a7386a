//! One sandbox: looked at, paused, killed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use model::{OwnerId, SandboxId, Status};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, in_path, json, parse_json, read_body};
use super::error::{in_the_way, no_sandbox, told};
use super::view::Detail;
use crate::store::Sandbox;

/// The sandbox that a path names. Older clients append a dash and another id.
pub struct Named(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = in_path(parts, state, "id").await.unwrap_or_default();
        let id = text.split('-').next().unwrap_or_default();
        id.parse().map(Self).map_err(|_| no_sandbox(&text))
    }
}

/// A body that may be absent.
pub async fn optional_body<T: DeserializeOwned>(api: &Api, body: Body) -> Result<T, ApiError> {
    let body = read_body(body, api.limits.json_body).await?;
    parse_json(if body.is_empty() { b"{}" } else { &body })
}

/// A caller's sandbox, if it is there and was made for clients like this one.
pub async fn find(api: &Api, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, ApiError> {
    let found = api.store.get(owner, id).await?;
    let is_seen = |sandbox: &Sandbox| sandbox.is_there() && !sandbox.guest_access.is_closed();
    found.filter(is_seen).ok_or_else(|| no_sandbox(id.as_str()))
}

pub async fn get(State(api): State<Arc<Api>>, Caller(owner): Caller, Named(id): Named) -> Result<Response, ApiError> {
    let sandbox = find(&api, &owner, &id).await?;
    let token = api.store.access_token(&sandbox)?;
    Ok(json(StatusCode::OK, &Detail::new(&sandbox, token.as_ref(), api.domain.as_ref())))
}

pub async fn kill(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
) -> Result<StatusCode, ApiError> {
    find(&api, &owner, &id).await?;
    api.lifecycle.delete(owner, id.clone()).await.map_err(|error| told(&id, error))?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct PauseRequest {
    /// Whether more than its disk is kept.
    memory: Option<bool>,
}

pub async fn pause(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let request: PauseRequest = optional_body(&api, body).await?;
    let sandbox = find(&api, &owner, &id).await?;
    match sandbox.status {
        Status::Paused | Status::Stopped => {
            return Err(ApiError::conflict(format!("Error pausing sandbox - sandbox '{id}' is already paused")));
        }
        Status::Running => {}
        other => return Err(in_the_way(&id, other)),
    }
    let paused = match request.memory {
        Some(false) => api.lifecycle.stop(owner, id.clone()).await,
        _ => api.lifecycle.pause(owner, id.clone()).await,
    };
    paused.map_err(|error| told(&id, error))?;
    Ok(StatusCode::NO_CONTENT)
}
