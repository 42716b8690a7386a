//! Figures for Prometheus.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

use super::Api;
use super::error::ApiError;
use super::request::Caller;
use crate::metrics::Now;

/// Figures for Prometheus
///
/// Text in Prometheus' format 0.0.4: requests, sandboxes by status, what became of creates and commands, the
/// reconciler, the host. Names no sandbox and no owner.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "server",
    responses((status = 200, description = "The figures", body = String, content_type = "text/plain"))
)]
pub async fn get(State(api): State<Arc<Api>>, _: Caller) -> Result<Response, ApiError> {
    let sandboxes = api.store.count_by_status().await?;
    let report = api.reconciler.borrow().clone();
    let text = api.metrics.render(&Now { sandboxes: &sandboxes, host: &api.host_id, report: &report });
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}
