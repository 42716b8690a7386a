//! How long a program takes inside a sandbox: what an exec over this API is measured against.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, SandboxIdParam, schema};
use super::request::{Caller, InPath, json as json_answer};

/// The host agent's limit.
const MAX_RUNS: u32 = 1000;

/// How long a program that does nothing took, by the guest's own clock.
#[derive(Serialize, ToSchema)]
#[schema(as = BenchmarkResponse)]
struct Times {
    /// How often it ran.
    count: u32,
    median_us: u64,
    min_us: u64,
}

struct Count;

impl IntoParams for Count {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("count")
            .parameter_in(ParameterIn::Query)
            .description(Some("How often; 0 means the default"))
            .schema(Some(schema(json!({"type": "integer", "minimum": 0, "maximum": MAX_RUNS, "default": 20}))));
        vec![parameter.build()]
    }
}

/// Measure how long a program takes
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/benchmark",
    operation_id = "benchmarkSandbox",
    tag = "commands",
    params(SandboxIdParam, Count),
    responses((status = 200, description = "The times", body = Times), HostErrors)
)]
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
    Ok(json_answer(StatusCode::OK, &times))
}

/// 0 leaves the number to the guest.
fn runs(count: Option<&String>) -> Result<u32, ApiError> {
    match count.map_or(Ok(0), |count| count.parse()) {
        Ok(count) if count <= MAX_RUNS => Ok(count),
        _ => Err(ApiError::invalid_request(format!("count must be between 1 and {MAX_RUNS}, or 0 for the default"))),
    }
}
