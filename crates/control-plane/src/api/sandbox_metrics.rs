//! How much of its processors, memory and disk a sandbox uses.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use model::Status;
use serde::Serialize;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, SandboxIdParam};
use super::request::{Caller, InPath, json as json_answer};
use super::stats::{in_query, range_of, range_param};

const RANGES: [(&str, u64); 7] =
    [("5m", 300), ("10m", 600), ("1h", 3600), ("2h", 7200), ("6h", 21_600), ("12h", 43_200), ("24h", 86_400)];
const DEFAULT_RANGE: &str = "10m";

/// What a sandbox uses.
#[derive(Serialize, ToSchema)]
struct CapsuleMetrics<'a> {
    sandbox_id: &'a str,
    range: &'static str,
    points: Vec<MetricPoint>,
}

/// At one time.
#[derive(Serialize, ToSchema)]
struct MetricPoint {
    timestamp_unix: i64,
    /// Of all its processors together: 0 to 100.
    cpu_pct: f64,
    mem_bytes: u64,
    disk_bytes: u64,
}

struct RangeParam;

impl IntoParams for RangeParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![range_param(&RANGES, DEFAULT_RANGE)]
    }
}

/// See what a sandbox uses
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/metrics",
    operation_id = "getSandboxMetrics",
    tag = "sandboxes",
    params(SandboxIdParam, RangeParam),
    responses((status = 200, description = "The numbers", body = CapsuleMetrics<'_>), HostErrors)
)]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    uri: http::Uri,
) -> Result<Response, ApiError> {
    let (range, _) = range_of(in_query(&uri, "range"), &RANGES, DEFAULT_RANGE)?;
    let sandbox = api.sandbox(&owner, &id).await?;
    let points = match sandbox.status {
        Status::Running => {
            let now = api.host.guest_metrics(&id).await?;
            vec![MetricPoint {
                timestamp_unix: Timestamp::now().as_second(),
                cpu_pct: now.cpu_pct.clamp(0.0, 100.0),
                mem_bytes: now.memory_bytes,
                disk_bytes: now.disk_bytes,
            }]
        }
        Status::Stopped | Status::Error => return Err(ApiError::no_sandbox()),
        _ => Vec::new(),
    };
    Ok(json_answer(StatusCode::OK, &CapsuleMetrics { sandbox_id: id.as_str(), range, points }))
}
