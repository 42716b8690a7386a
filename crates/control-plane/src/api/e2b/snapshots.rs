//! Snapshots: made of a running sandbox, listed, deleted. To these clients they are templates.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use model::{Extent, SnapshotId, SnapshotRef, SnapshotStatus, Tag};
use serde::{Deserialize, Serialize};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::error::{absent, told};
use super::names::{self, Label, Reference, no_template};
use super::pages;
use super::sandboxes::{Named, find, optional_body};
use crate::lifecycle::{LifecycleError, SnapshotError};
use crate::store::{Meant, Naming, Snapshot, SnapshotFilter, Tagging};

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

impl From<&Label> for Info {
    fn from(label: &Label) -> Self {
        Self { snapshot_id: label.to_string(), names: names::names(&label.name) }
    }
}

/// All that a snapshot is called, its name first.
fn labels(snapshot: &Snapshot, given: &[Tagging]) -> Vec<Label> {
    let is_its_own = |meant: &Meant| meant.ready().is_some_and(|meant| meant.id == snapshot.id);
    let name = snapshot.name.iter().map(|name| Label { name: SnapshotRef::Name(name.clone()), tag: Tag::Default });
    let given = given.iter().filter(|tagging| is_its_own(&tagging.meant));
    let given = given.map(|tagging| Label { name: tagging.name.clone(), tag: Tag::Given(tagging.tag.clone()) });
    let mut labels: Vec<_> = name.chain(given).collect();
    if labels.is_empty() {
        labels.push(Label { name: SnapshotRef::Id(snapshot.id.clone()), tag: Tag::Default });
    }
    labels
}

/// Where a snapshot stands in a list, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    created_at: Reverse<i64>,
    id: SnapshotId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_at.0, self.id)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (time, id) = text.split_once('-').ok_or(())?;
        let created_at = Reverse(time.parse().map_err(|_| ())?);
        Ok(Self { created_at, id: id.parse().map_err(|_| ())? })
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
    let wanted = request.name.filter(|name| !name.is_empty()).map(|name| names::new_name(&name)).transpose()?;
    let naming = match wanted.clone() {
        Some((name, tag)) => Naming::Replacing(name, tag),
        None => Naming::Unnamed,
    };
    let made = api.lifecycle.snapshot(owner, id.clone(), SnapshotId::random(), naming, extent).await;
    let snapshot = made.map_err(|error| match error {
        LifecycleError::Snapshot(SnapshotError::NameOfTemplate { .. }) => ApiError::invalid_request(error.to_string()),
        other => told(&id, other),
    })?;
    let label = match wanted {
        Some((name, tag)) => Label { name: SnapshotRef::Name(name), tag },
        None => Label { name: SnapshotRef::Id(snapshot.id), tag: Tag::Default },
    };
    Ok(json(StatusCode::CREATED, &Info::from(&label)))
}

/// Each snapshot once, by what it was asked for by.
pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: Uri) -> Result<Response, ApiError> {
    let asked = |name: &str| in_query(&uri, name).filter(|text| !text.is_empty());
    let sandbox = match asked("sandboxID").map(|id| id.parse()) {
        Some(Err(_)) => return Ok(json(StatusCode::OK, &[(); 0])),
        Some(Ok(id)) => Some(id),
        None => None,
    };
    let wanted = match asked("name").map(|name| Reference::read(&name)) {
        Some(None) => return Ok(json(StatusCode::OK, &[(); 0])),
        Some(wanted) => wanted,
        None => None,
    };
    let is_wanted = |label: &Label| {
        let is_so = |wanted: &Reference| {
            wanted.name == label.name && wanted.tag.as_ref().is_none_or(|wanted| *wanted == label.tag)
        };
        wanted.as_ref().is_none_or(is_so)
    };
    let given = api.store.taggings(&owner, None).await?;
    let snapshots = api.store.list_snapshots(&owner, &SnapshotFilter { sandbox, template: None }).await?;
    let ready = snapshots.iter().filter(|snapshot| snapshot.status == SnapshotStatus::Ready);
    let listed = ready.filter_map(|snapshot| {
        let label = labels(snapshot, &given).into_iter().find(is_wanted)?;
        Some((snapshot, Info::from(&label)))
    });
    let place = |(snapshot, _): &(&Snapshot, Info)| Place {
        created_at: Reverse(snapshot.created_at.as_millisecond()),
        id: snapshot.id.clone(),
    };
    pages::answer(&uri, listed.collect(), place, |(_, info)| info)
}

/// Without a tag all that has the name, and nothing where a part of it is needed.
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    let wanted = Reference::read(&text).ok_or_else(|| no_template(&text))?;
    let snapshots = api.snapshots_called(&owner, &wanted).await?;
    if snapshots.is_empty() {
        // Of others it is not told whether they are there.
        api.template(&owner, &text).await?;
        return Err(absent("removal of templates that came with it"));
    }
    for snapshot in &snapshots {
        let sandboxes = api.store.users_of(snapshot).await?;
        if !sandboxes.is_empty() {
            let needed = SnapshotError::Needed { label: snapshot.label().to_owned(), sandboxes };
            return Err(ApiError::invalid_request(needed.to_string()));
        }
    }
    for snapshot in snapshots {
        let deleted = api.lifecycle.delete_snapshot(owner.clone(), SnapshotRef::Id(snapshot.id)).await;
        deleted.map_err(|error| match error {
            LifecycleError::Snapshot(SnapshotError::NotFound) => no_template(&text),
            LifecycleError::Snapshot(SnapshotError::Needed { .. }) => ApiError::invalid_request(error.to_string()),
            other => other.into(),
        })?;
    }
    Ok(StatusCode::NO_CONTENT)
}
