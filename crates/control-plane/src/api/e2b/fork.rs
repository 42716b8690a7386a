//! Copies of a running sandbox that go on from where it is. Each comes to be, or not, by itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::{SandboxId, Status};
use serde::Deserialize;
use serde_json::json as value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::error::{in_list, told};
use super::sandboxes::{Named, find_to_change, optional_body};
use super::time::positive;
use super::view::SandboxView;

/// Copies of one fork.
const MOST: usize = 100;
const TIMEOUT: i64 = 15;

#[derive(Deserialize)]
struct ForkRequest {
    timeout: Option<i64>,
    count: Option<usize>,
}

pub async fn fork(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let request: ForkRequest = optional_body(&api, body).await?;
    let time = positive(request.timeout.unwrap_or(TIMEOUT))?;
    let count = request.count.unwrap_or(1);
    if !(1..=MOST).contains(&count) {
        return Err(ApiError::invalid_request(format!("count must be between 1 and {MOST}")));
    }
    if matches!(find_to_change(&api, &owner, &id).await?.status, Status::Paused | Status::Pausing | Status::Stopped) {
        let message = format!("Sandbox '{id}' is paused and cannot be forked; resume it first");
        return Err(ApiError::conflict(message));
    }
    let children = (0..count).map(|_| SandboxId::random()).collect();
    let forked = api.lifecycle.fork_each(owner, id.clone(), children, time).await.map_err(|error| told(&id, error))?;
    let mut items = Vec::with_capacity(count);
    for child in forked {
        items.push(match child {
            Ok(child) => value!({"sandbox": SandboxView::new(&api, &child)?}),
            Err(error) => value!({"error": in_list(&told(&id, error))}),
        });
    }
    Ok(json(StatusCode::CREATED, &items))
}
