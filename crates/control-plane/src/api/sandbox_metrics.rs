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
use crate::store::{Series, Use};

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
    /// That its guest has in use.
    mem_bytes: i64,
    /// That its writes take on the host.
    disk_bytes: i64,
}

impl From<Use> for MetricPoint {
    fn from(seen: Use) -> Self {
        Self {
            timestamp_unix: seen.at,
            cpu_pct: seen.cpu_pct,
            mem_bytes: seen.memory_bytes,
            disk_bytes: seen.disk_bytes,
        }
    }
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
    let (range, length) = range_of(in_query(&uri, "range"), &RANGES, DEFAULT_RANGE)?;
    let sandbox = api.sandbox(&owner, &id).await?;
    if matches!(sandbox.status, Status::Stopped | Status::Error) {
        return Err(ApiError::no_sandbox());
    }
    let series = match length.as_secs() {
        0..=600 => Series::Seconds,
        601..=7200 => Series::HalfMinutes,
        _ => Series::FiveMinutes,
    };
    let mut seen = api.store.metrics(&id, series).await?;
    // The host has what came after the last pause.
    if sandbox.status != Status::Paused {
        match api.host.sandbox_metrics(&id, series).await {
            Ok(since) => seen.extend(since),
            // It is only on its way there.
            Err(error) if error.is_not_found() && sandbox.status == Status::Pending => {}
            Err(error) => return Err(error.into()),
        }
    }
    let from = Timestamp::now().as_second() - i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let points = seen.into_iter().filter(|point| point.at >= from).map(MetricPoint::from).collect();
    Ok(json_answer(StatusCode::OK, &CapsuleMetrics { sandbox_id: id.as_str(), range, points }))
}
