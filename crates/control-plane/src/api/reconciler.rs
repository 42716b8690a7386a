//! How the comparison of records and host goes.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::request::{Caller, json};
use super::sandboxes::seconds;
use crate::reconcile::{Pass, Report};

/// How the comparison of records and host goes.
#[derive(Serialize, ToSchema)]
struct ReportView {
    /// Whether this control plane is the one, of those on one database, that reconciles.
    leads: bool,
    passes: u64,
    failed_passes: u64,
    /// Since the beginning of the last pass that was completed; absent until one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<u64>,
    /// Absent while the host agent answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    host_silent_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_pass: Option<PassView>,
}

/// One comparison.
#[derive(Serialize, ToSchema)]
struct PassView {
    began_at: String,
    took_ms: u64,
    records: usize,
    on_host: usize,
    corrected: usize,
    deleted: usize,
    destroyed: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How the comparison of records and host goes
///
/// The last pass with its counts, and how old the last complete one is.
#[utoipa::path(
    get,
    path = "/v1/reconciler",
    operation_id = "getReconciler",
    tag = "server",
    responses((status = 200, description = "The state of the reconciler", body = ReportView))
)]
pub async fn get(State(api): State<Arc<Api>>, _: Caller) -> Response {
    let report = api.reconciler.borrow().clone();
    json(StatusCode::OK, &view(report, Timestamp::now()))
}

fn view(report: Report, now: Timestamp) -> ReportView {
    ReportView {
        leads: report.leads,
        passes: report.passes,
        failed_passes: report.failed_passes,
        lag_ms: report
            .complete
            .map(|began| now.duration_since(began).unsigned_abs().as_millis().try_into().unwrap_or(u64::MAX)),
        host_silent_since: report.silent_since.map(seconds),
        last_pass: report.last.map(pass),
    }
}

fn pass(pass: Pass) -> PassView {
    let counts = pass.counts;
    PassView {
        began_at: seconds(pass.began),
        took_ms: pass.took.as_millis().try_into().unwrap_or(u64::MAX),
        records: counts.records,
        on_host: counts.on_host,
        corrected: counts.corrected,
        deleted: counts.deleted,
        destroyed: counts.destroyed,
        failed: counts.failed,
        error: pass.error,
    }
}
