//! What happened to a sandbox, as a log. What its programs write is theirs and is not kept here.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{StatusCode, Uri};
use jiff::Timestamp;
use model::{OwnerId, SandboxId};
use serde::Serialize;
use serde_json::json as value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::super::stats::in_query;
use super::sandboxes::{Named, find};
use crate::store::Event;

/// Entries that are looked at, and told at once.
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

/// Which way a log is read from where it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// What a query asks for. What makes no sense in it says nothing: the contract has no answer to that.
struct Wanted {
    direction: Direction,
    /// In milliseconds.
    from: Option<i64>,
    limit: usize,
    /// The least severe.
    level: usize,
    search: String,
}

/// From the least severe to the severest.
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

fn severity(level: &str) -> Option<usize> {
    LEVELS.iter().position(|known| *known == level)
}

impl Wanted {
    fn read(uri: &Uri, from: &str) -> Self {
        let number = |name: &str| in_query(uri, name).and_then(|text| text.parse::<i64>().ok());
        let is_backward = in_query(uri, "direction").as_deref() == Some("backward");
        Self {
            direction: if is_backward { Direction::Backward } else { Direction::Forward },
            from: number(from),
            limit: number("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(MOST as usize),
            level: in_query(uri, "level").and_then(|level| severity(&level)).unwrap_or_default(),
            search: in_query(uri, "search").unwrap_or_default(),
        }
    }

    fn has(&self, at: Timestamp, entry: &Entry) -> bool {
        let at = at.as_millisecond();
        let is_beyond = self.from.is_none_or(|from| match self.direction {
            Direction::Forward => at >= from,
            Direction::Backward => at <= from,
        });
        is_beyond && severity(entry.level) >= Some(self.level) && entry.message.contains(&self.search)
    }
}

async fn entries(api: &Api, owner: &OwnerId, id: &SandboxId, wanted: Wanted) -> Result<Vec<Entry>, ApiError> {
    find(api, owner, id).await?;
    let mut events = api.store.events_of(owner, id, MOST).await?;
    if wanted.direction == Direction::Backward {
        events.reverse();
    }
    let entries = events.into_iter().map(|event| (event.at, Entry::from(event)));
    let entries = entries.filter(|(at, entry)| wanted.has(*at, entry)).map(|(_, entry)| entry);
    Ok(entries.take(wanted.limit).collect())
}

pub async fn v1(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    uri: Uri,
) -> Result<Response, ApiError> {
    let entries = entries(&api, &owner, &id, Wanted::read(&uri, "start")).await?;
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
    let entries = entries(&api, &owner, &id, Wanted::read(&uri, "cursor")).await?;
    Ok(json(StatusCode::OK, &value!({ "logs": entries })))
}
