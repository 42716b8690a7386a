//! What sandboxes use.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use jiff::Timestamp;
use model::{SandboxId, Status};
use serde::Serialize;
use serde_json::json as value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::error::invalid_id;
use super::sandboxes::{Named, can_be_id, find};
use crate::store::{Sandbox, Series, Use};

/// Sandboxes in one question.
const MOST: usize = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    timestamp: String,
    timestamp_unix: i64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: i64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: i64,
    disk_total: u64,
}

impl Metric {
    fn new(sandbox: &Sandbox, seen: &Use) -> Self {
        Self {
            timestamp: Timestamp::from_second(seen.at).unwrap_or_default().to_string(),
            timestamp_unix: seen.at,
            cpu_count: sandbox.shape.vcpus.get(),
            cpu_used_pct: seen.cpu_pct,
            mem_used: seen.memory_bytes,
            mem_total: u64::from(sandbox.shape.memory.get()) << 20,
            mem_cache: 0,
            disk_used: seen.disk_bytes,
            disk_total: u64::from(sandbox.shape.disk.get()) << 20,
        }
    }
}

pub async fn of_one(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    uri: Uri,
) -> Result<Response, ApiError> {
    let sandbox = find(&api, &owner, &id).await?;
    let (start, end) = (second(&uri, "start")?, second(&uri, "end")?);
    let is_wanted = |seen: &Use| start.is_none_or(|at| seen.at >= at) && end.is_none_or(|at| seen.at <= at);
    let series = match start.map_or(0, |at| Timestamp::now().as_second().saturating_sub(at)) {
        ..=600 => Series::Seconds,
        601..=7200 => Series::HalfMinutes,
        _ => Series::FiveMinutes,
    };
    let seen = api.seen(&sandbox, series).await?;
    let metrics: Vec<_> = seen.iter().filter(|seen| is_wanted(seen)).map(|seen| Metric::new(&sandbox, seen)).collect();
    Ok(json(StatusCode::OK, &metrics))
}

pub async fn of_several(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: Uri) -> Result<Response, ApiError> {
    let asked = in_query(&uri, "sandbox_ids").unwrap_or_default();
    let asked: Vec<_> = asked.split(',').filter(|id| !id.is_empty()).collect();
    if !asked.iter().all(|id| can_be_id(id)) {
        return Err(invalid_id());
    }
    let ids: Vec<SandboxId> = asked.iter().filter_map(|id| id.parse().ok()).collect();
    if ids.is_empty() || ids.len() > MOST {
        return Err(ApiError::invalid_request(format!("sandbox_ids must name 1 to {MOST} sandboxes")));
    }
    let mut sandboxes = BTreeMap::new();
    for id in ids {
        let Ok(sandbox) = find(&api, &owner, &id).await else { continue };
        if let Some(last) = api.seen(&sandbox, Series::Seconds).await?.last() {
            sandboxes.insert(id.to_string(), Metric::new(&sandbox, last));
        }
    }
    Ok(json(StatusCode::OK, &value!({ "sandboxes": sandboxes })))
}

fn second(uri: &Uri, name: &str) -> Result<Option<i64>, ApiError> {
    let text = in_query(uri, name);
    let parsed = text.map(|text| text.parse().map_err(|_| ApiError::invalid_request(format!("Invalid {name}"))));
    parsed.transpose()
}

impl Api {
    /// What was measured of a sandbox, before its last pause and since.
    async fn seen(&self, sandbox: &Sandbox, series: Series) -> Result<Vec<Use>, ApiError> {
        let mut seen = self.store.metrics(&sandbox.id, series).await?;
        if matches!(sandbox.status, Status::Running | Status::Snapshotting) {
            match self.host.sandbox_metrics(&sandbox.id, series).await {
                Ok(since) => seen.extend(since),
                // It has just ended.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(seen)
    }
}
