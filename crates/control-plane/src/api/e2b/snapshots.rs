//! Snapshots: made of a running sandbox, listed, deleted. To these clients they are templates.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri};
use model::{Extent, SnapshotId, SnapshotRef, SnapshotStatus};
use serde::{Deserialize, Serialize};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::error::{absent, told};
use super::names::{self, names_of, no_template, of_snapshot};
use super::sandboxes::{Named, find, optional_body};
use crate::lifecycle::{LifecycleError, SnapshotError};
use crate::store::{Naming, Snapshot, SnapshotFilter};

const MOST: usize = 100;

#[derive(Deserialize)]
struct SnapshotRequest {
    name: Option<String>,
    memory: Option<bool>,
}

#[derive(Serialize)]
struct Info {
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
    names: Vec<String>,
}

impl From<&Snapshot> for Info {
    fn from(snapshot: &Snapshot) -> Self {
        Self { snapshot_id: of_snapshot(snapshot), names: names_of(snapshot) }
    }
}

pub async fn create(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let request: SnapshotRequest = optional_body(&api, body).await?;
    find(&api, &owner, &id).await?;
    let extent = if request.memory == Some(false) { Extent::Disk } else { Extent::Full };
    let naming = match request.name.filter(|name| !name.is_empty()) {
        Some(name) => Naming::Replacing(names::new_name(&name)?),
        None => Naming::Unnamed,
    };
    let made = api.lifecycle.snapshot(owner, id.clone(), SnapshotId::random(), naming, extent).await;
    let snapshot = made.map_err(|error| match error {
        LifecycleError::Snapshot(SnapshotError::NameOfTemplate { .. }) => ApiError::invalid_request(error.to_string()),
        other => told(&id, other),
    })?;
    Ok(json(StatusCode::CREATED, &Info::from(&snapshot)))
}

pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: Uri) -> Result<Response, ApiError> {
    let sandbox = match in_query(&uri, "sandboxID").map(|id| id.parse()) {
        Some(Err(_)) => return Ok(json(StatusCode::OK, &[(); 0])),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    let limit = match in_query(&uri, "limit").map(|text| text.parse()) {
        None => MOST,
        Some(Ok(limit @ 1..=MOST)) => limit,
        Some(_) => return Err(ApiError::invalid_request("Invalid limit")),
    };
    let mut all = api.store.list_snapshots(&owner, &SnapshotFilter { sandbox, template: None }).await?;
    all.retain(|snapshot| snapshot.status == SnapshotStatus::Ready);
    if let Some(name) = in_query(&uri, "name") {
        let bare = names::bare(&name);
        all.retain(|snapshot| bare == Some(snapshot.label()));
    }
    if let Some(token) = in_query(&uri, "nextToken").filter(|token| !token.is_empty()) {
        let at = all.iter().position(|snapshot| snapshot.id.as_str() == token);
        let at = at.ok_or_else(|| ApiError::invalid_request("Invalid next token"))?;
        all.drain(..=at);
    }
    let next = all.get(limit.saturating_sub(1)).filter(|_| all.len() > limit).map(|last| last.id.to_string());
    let page: Vec<_> = all.iter().take(limit).map(Info::from).collect();
    let mut response = json(StatusCode::OK, &page);
    if let Some(next) = next {
        response
            .headers_mut()
            .insert("x-next-token", HeaderValue::try_from(next).expect("an id is letters and digits"));
    }
    Ok(response)
}

pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    let wanted: SnapshotRef =
        names::bare(&text).and_then(|name| name.parse().ok()).ok_or_else(|| no_template(&text))?;
    let is_own = api.store.get_snapshot(&owner, &wanted).await?.is_some();
    if !is_own && api.has_template(wanted.to_string().as_str()).await? {
        return Err(absent("removal of templates that came with it"));
    }
    api.lifecycle.delete_snapshot(owner, wanted).await.map_err(|error| match error {
        LifecycleError::Snapshot(SnapshotError::NotFound) => no_template(&text),
        LifecycleError::Snapshot(SnapshotError::Needed { .. }) => ApiError::invalid_request(error.to_string()),
        other => other.into(),
    })?;
    Ok(StatusCode::NO_CONTENT)
}
