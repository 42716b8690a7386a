//! What happened to a sandbox, as a log. What its programs write is theirs and is not kept here.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use model::{OwnerId, SandboxId};
use serde::Serialize;
use serde_json::json as value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::sandboxes::{Named, find};
use crate::store::Event;

const MOST: u32 = 1000;

#[derive(Serialize)]
struct Entry {
    timestamp: String,
    message: String,
    level: &'static str,
    fields: std::collections::BTreeMap<String, String>,
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        let kind = event.kind.as_str();
        let (level, message) = match event.details.error {
            Some(error) => ("error", format!("{kind}: {error}")),
            None => ("info", kind.to_owned()),
        };
        Self { timestamp: event.at.to_string(), message, level, fields: event.details.metadata }
    }
}

async fn entries(api: &Api, owner: &OwnerId, id: &SandboxId, uri: &Uri) -> Result<Vec<Entry>, ApiError> {
    find(api, owner, id).await?;
    let limit = in_query(uri, "limit").and_then(|text| text.parse().ok()).unwrap_or(MOST).min(MOST);
    let events = api.store.events_of(owner, id, limit).await?;
    Ok(events.into_iter().map(Entry::from).collect())
}

pub async fn v1(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    uri: Uri,
) -> Result<Response, ApiError> {
    let entries = entries(&api, &owner, &id, &uri).await?;
    let line = |entry: &Entry| value!({"timestamp": entry.timestamp, "line": entry.message});
    let logs: Vec<_> = entries.iter().map(line).collect();
    Ok(json(StatusCode::OK, &value!({"logs": logs, "logEntries": entries})))
}

pub async fn v2(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut entries = entries(&api, &owner, &id, &uri).await?;
    if in_query(&uri, "direction").as_deref() == Some("backward") {
        entries.reverse();
    }
    Ok(json(StatusCode::OK, &value!({ "logs": entries })))
}
