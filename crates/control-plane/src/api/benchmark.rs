//! How long a program takes inside a sandbox: what an exec over this API is measured against.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::request::{Caller, InPath, json};

/// The host agent's limit.
const MAX_RUNS: u32 = 1000;

#[derive(Serialize)]
struct Times {
    count: u32,
    median_us: u64,
    min_us: u64,
}

/// `GET /v1/sandboxes/{id}/benchmark`
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    query: Result<Query<HashMap<String, String>>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    api.running(&owner, &id).await?;
    let query = query.map_err(|error| ApiError::invalid_request(error.body_text()))?;
    let times = api.host.benchmark_spawn(&id, runs(query.get("count"))?).await?;
    let times = Times { count: times.count, median_us: times.median_us, min_us: times.min_us };
    Ok(json(StatusCode::OK, &times))
}

/// 0 leaves the number to the guest.
fn runs(count: Option<&String>) -> Result<u32, ApiError> {
    match count.map_or(Ok(0), |count| count.parse()) {
        Ok(count) if count <= MAX_RUNS => Ok(count),
        _ => Err(ApiError::invalid_request(format!("count must be between 1 and {MAX_RUNS}, or 0 for the default"))),
    }
}
