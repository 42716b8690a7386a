//! What the host's disk holds, and removing what need not be there.
//!
//! Everybody sees their own sandboxes and snapshots, and what all share; the rest is one number.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use model::{OwnerId, Status};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, schema};
use super::request::{Caller, json as json_answer, read_json};
use crate::host::{DiskUse, DryRun};
use crate::retention::{Expired, Expiring};
use crate::store::{Filter, SnapshotFilter};

const SANDBOX: &str = "sandbox";
const SNAPSHOT: &str = "snapshot";
/// What nobody in particular owns.
const SHARED: [&str; 5] = ["bake", "template", "kernel", "monitor", "cache"];
/// What others own, and what is on its way.
const OTHER: &str = "other";

/// The host's disk.
#[derive(Serialize, ToSchema)]
struct DiskUsage {
    /// Of the file system that the host's data is on.
    total_bytes: i64,
    free_bytes: i64,
    /// Never used for sandboxes.
    reserve_bytes: i64,
    /// All of them together are what the host takes; a file that several share is counted once.
    uses: Vec<DiskUseView>,
}

/// Something that takes disk space.
#[derive(Serialize, ToSchema)]
#[schema(as = DiskUse)]
struct DiskUseView {
    #[schema(schema_with = kind)]
    kind: String,
    /// Absent for `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Of a snapshot that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    bytes: i64,
    /// Whether prune would remove it.
    prunable: bool,
}

fn kind() -> RefOr<Schema> {
    let kinds = [SANDBOX, SNAPSHOT].into_iter().chain(SHARED).chain([OTHER]);
    schema(json!({"type": "string", "enum": kinds.collect::<Vec<_>>()}))
}

/// What is the caller's own, with the names of it.
struct Own(HashMap<(&'static str, String), Option<String>>);

impl Own {
    async fn read(api: &Api, owner: &OwnerId) -> Result<Self, ApiError> {
        let live = Status::ALL.into_iter().filter(|status| *status != Status::Stopped).collect();
        let sandboxes = api.store.list(owner, &Filter { statuses: live, ..Filter::default() }).await?.sandboxes;
        let snapshots = api.store.list_snapshots(owner, &SnapshotFilter::default()).await?;
        let sandboxes = sandboxes.into_iter().map(|sandbox| ((SANDBOX, sandbox.id.to_string()), None));
        let snapshots = snapshots
            .into_iter()
            .map(|snapshot| ((SNAPSHOT, snapshot.id.to_string()), snapshot.name.map(|name| name.to_string())));
        Ok(Self(sandboxes.chain(snapshots).collect()))
    }

    /// How the caller sees it; `None` where it is not theirs to see.
    fn view(&self, seen: &DiskUse) -> Option<DiskUseView> {
        let name = match [SANDBOX, SNAPSHOT].into_iter().find(|kind| *kind == seen.kind) {
            Some(kind) => self.0.get(&(kind, seen.id.clone()))?.clone(),
            None if SHARED.contains(&seen.kind.as_str()) => None,
            None => return None,
        };
        let (kind, id) = (seen.kind.clone(), Some(seen.id.clone()));
        Some(DiskUseView { kind, id, name, bytes: seen.bytes, prunable: seen.is_prunable })
    }
}

/// See what takes disk space
///
/// The caller's sandboxes and snapshots, and what all share, the largest first.
#[utoipa::path(
    get,
    path = "/v1/disk",
    operation_id = "getDiskUsage",
    tag = "server",
    responses((status = 200, description = "The host's disk", body = DiskUsage), HostErrors)
)]
pub async fn usage(State(api): State<Arc<Api>>, Caller(owner): Caller) -> Result<Response, ApiError> {
    let usage = api.host.disk_usage().await?;
    let own = Own::read(&api, &owner).await?;
    let mut uses: Vec<_> = usage.uses.iter().filter_map(|seen| own.view(seen)).collect();
    uses.sort_by_key(|seen| std::cmp::Reverse(seen.bytes));
    let others = usage.uses.iter().filter(|seen| own.view(seen).is_none()).map(|seen| seen.bytes).sum();
    if others > 0 {
        uses.push(DiskUseView { kind: OTHER.to_owned(), id: None, name: None, bytes: others, prunable: false });
    }
    let (total_bytes, free_bytes, reserve_bytes) = (usage.total_bytes, usage.free_bytes, usage.reserve_bytes);
    Ok(json_answer(StatusCode::OK, &DiskUsage { total_bytes, free_bytes, reserve_bytes, uses }))
}

/// How to prune.
#[derive(Deserialize, ToSchema)]
struct PruneRequest {
    /// Only tells what would be removed.
    #[schema(default = false)]
    dry_run: Option<bool>,
}

/// What pruning removed.
#[derive(Serialize, ToSchema)]
struct Pruned {
    /// Whether it only would have.
    dry_run: bool,
    removed: Vec<Removed>,
}

/// Something that need not be there.
#[derive(Serialize, ToSchema)]
struct Removed {
    #[schema(schema_with = kind)]
    kind: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// What it took on the host's disk; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<i64>,
    /// Why it is not kept; absent for what can be made again and nothing uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&Expired> for Removed {
    fn from(expired: &Expired) -> Self {
        let reason = Some(expired.why.to_string());
        match &expired.what {
            Expiring::Sandbox(sandbox) => {
                Self { kind: SANDBOX.to_owned(), id: sandbox.id.to_string(), name: None, bytes: None, reason }
            }
            Expiring::Snapshot(snapshot) => Self {
                kind: SNAPSHOT.to_owned(),
                id: snapshot.id.to_string(),
                name: snapshot.name.as_ref().map(ToString::to_string),
                bytes: Some(snapshot.size_bytes),
                reason,
            },
        }
    }
}

impl From<DiskUse> for Removed {
    fn from(seen: DiskUse) -> Self {
        Self { kind: seen.kind, id: seen.id, name: None, bytes: Some(seen.bytes), reason: None }
    }
}

/// Remove what need not be there
///
/// The caller's snapshots and paused sandboxes that the server's settings do not keep any longer, and what can be made
/// again and nothing uses: baked images, old builds of templates, old monitors.
#[utoipa::path(
    post,
    path = "/v1/prune",
    operation_id = "prune",
    tag = "server",
    request_body = PruneRequest,
    responses((status = 200, description = "What was, or would be, removed", body = Pruned), JsonErrors, HostErrors)
)]
pub async fn prune(State(api): State<Arc<Api>>, Caller(owner): Caller, body: Body) -> Result<Response, ApiError> {
    let request: PruneRequest = read_json(body, api.limits.json_body).await?;
    let dry_run = if request.dry_run.unwrap_or_default() { DryRun::Yes } else { DryRun::No };
    let mut expired = api.retainer.expired(&api.host_id, Timestamp::now()).await?;
    expired.retain(|expired| *expired.owner() == owner);
    let mut removed = Vec::new();
    for expired in expired {
        let told = Removed::from(&expired);
        let is_gone = match dry_run {
            DryRun::Yes => true,
            DryRun::No => api.retainer.remove(expired).await?,
        };
        removed.extend(is_gone.then_some(told));
    }
    // What those needed may go now.
    removed.extend(api.host.prune(dry_run).await?.into_iter().map(Removed::from));
    Ok(json_answer(StatusCode::OK, &Pruned { dry_run: dry_run == DryRun::Yes, removed }))
}
