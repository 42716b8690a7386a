//! What a sandbox costs its host: what benchmarks ask.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, SandboxIdParam};
use super::request::{Caller, InPath, json};

#[derive(Serialize, ToSchema)]
#[schema(as = Footprint)]
struct View {
    /// Bytes of memory of its monitor; a page that several processes map counts in parts.
    pss_bytes: u64,
    /// Microseconds of processor time of its monitor.
    cpu_us: u64,
    /// Microseconds from the start of its monitor to that one's first answer.
    monitor_start_us: u64,
    /// How it came to be: `boot`, `restore`, `pool` or `resume`.
    start: String,
    /// Microseconds that were waited for its jail meanwhile, at most; 0 where it was taken over from an earlier run of the
    /// host agent.
    jail_us: u64,
    /// Microseconds that were waited for its network: namespace, links and rules.
    fence_us: u64,
}

/// Measure what a sandbox costs its host
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/footprint",
    operation_id = "getFootprint",
    tag = "metrics",
    params(SandboxIdParam),
    responses((status = 200, description = "As it is now", body = View), HostErrors)
)]
pub async fn get(State(api): State<Arc<Api>>, Caller(owner): Caller, InPath(id): InPath) -> Result<Response, ApiError> {
    api.running(&owner, &id).await?;
    let footprint = api.host.footprint(&id).await?;
    let view = View {
        pss_bytes: footprint.pss_bytes,
        cpu_us: footprint.cpu_us,
        monitor_start_us: footprint.monitor_start_us,
        start: footprint.start,
        jail_us: footprint.jail_us,
        fence_us: footprint.fence_us,
    };
    Ok(json(StatusCode::OK, &view))
}
