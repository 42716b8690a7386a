//! What happens, as it happens: server-sent events out of the recorded ones. A listener that was away goes on where it
//! was, by the number of the last event that it has; one that is slow holds up nobody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode, Uri};
use jiff::Timestamp;
use model::OwnerId;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{QueryErrors, StoreErrors, schema};
use super::request::{Caller, json as answer};
use super::sandboxes::{seconds, value};
use super::surface::Surface;
use crate::store::{Actor, Event, Outcome, StoreError, sandbox_of};

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Other processes may record events in the same database.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Events that are read at once.
const BATCH: u32 = 100;

/// Events of one answer.
const MAX_EVENTS: u32 = 1000;

/// Listen to what happens
///
/// Server-sent events without an end; docs/api.md has their members. With `Last-Event-ID`, those since then come first.
#[utoipa::path(
    get,
    path = "/v1/events/stream",
    operation_id = "streamEvents",
    tag = "capsules",
    responses((status = 200, description = "The events follow", body = String, content_type = "text/event-stream"), StoreErrors)
)]
pub async fn stream(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = match last_heard(&headers) {
        Some(last) => last,
        None => api.store.last_event().await?,
    };
    Ok(listen(api, owner, last, Kinds::OfClients))
}

fn last_heard(headers: &HeaderMap) -> Option<i64> {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok())
}

/// What a listener hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    /// Of what the published clients know.
    OfClients,
    /// Of everything.
    All,
}

fn listen(api: Arc<Api>, owner: OwnerId, last: i64, kinds: Kinds) -> Response {
    let news = api.store.news();
    let connected = json!({"event": "connected", "timestamp": seconds(Timestamp::now())});
    let connected = frame(last, "connected", &connected);
    let shutdown = api.shutdown.clone().cancelled_owned();
    let listener = Listener { api, owner, last, kinds, news, read: VecDeque::new() };
    let events = futures::stream::once(std::future::ready(connected))
        .chain(futures::stream::unfold(listener, Listener::next))
        .map(Ok::<_, Infallible>)
        .take_until(shutdown);
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keepalive")).into_response()
}

struct EventsParams;

impl IntoParams for EventsParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name: &str, description: &str, value| {
            let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
            builder.description(Some(description)).schema(Some(schema(value))).build()
        };
        let since = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX, "default": 0});
        let limit = json!({"type": "integer", "minimum": 1, "maximum": MAX_EVENTS, "default": BATCH});
        vec![
            parameter("since", "Only events with a larger number", since),
            parameter("limit", "At most so many", limit),
        ]
    }
}

/// A part of what happened.
#[derive(Serialize, ToSchema)]
struct EventList {
    /// The oldest first; each has its number as `id`.
    #[schema(value_type = Vec<Object>)]
    events: Vec<Value>,
    /// `since` of the next part.
    next: i64,
}

/// Read what happened
///
/// Everything that is kept, commands and uses of keys too, in the order in which it happened. Asked for as
/// `text/event-stream`, what happens from now on follows without an end; `Last-Event-ID` then counts for more than `since`.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "listEvents",
    tag = "capsules",
    params(EventsParams),
    responses((status = 200, description = "Those after `since`", body = EventList), QueryErrors, StoreErrors)
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = uri.query().unwrap_or_default();
    let since = number(query, "since", 0..=i64::MAX)?.unwrap_or_default();
    let limit = number(query, "limit", 1..=i64::from(MAX_EVENTS))?.and_then(|limit| u32::try_from(limit).ok());
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepted.contains("text/event-stream") {
        return Ok(listen(api, owner, last_heard(&headers).unwrap_or(since), Kinds::All));
    }
    let found = api.store.events_after(&owner, since, limit.unwrap_or(BATCH)).await?;
    let next = found.last().map_or(since, |event| event.id);
    let mut events = Vec::with_capacity(found.len());
    for event in &found {
        let mut body = body(&api, &owner, event, WithSandbox::No).await?;
        body["id"] = json!(event.id);
        events.push(body);
    }
    Ok(answer(StatusCode::OK, &EventList { events, next }))
}

fn number(query: &str, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
    let given = url::form_urlencoded::parse(query.as_bytes()).find(|(given, _)| given == name);
    let Some((_, text)) = given else { return Ok(None) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = (range.start(), range.end());
    number.map(Some).ok_or_else(|| ApiError::invalid_request(format!("{name} must be from {least} to {most}")))
}

fn frame(id: i64, kind: &str, body: &Value) -> Frame {
    Frame::default().id(id.to_string()).event(kind).data(body.to_string())
}

struct Listener {
    api: Arc<Api>,
    owner: OwnerId,
    /// The newest event that was read.
    last: i64,
    kinds: Kinds,
    news: watch::Receiver<i64>,
    /// What was read and not yet sent.
    read: VecDeque<Event>,
}

impl Listener {
    /// The next event, or the end when the database has gone: the client comes again.
    async fn next(mut self) -> Option<(Frame, Self)> {
        while self.read.is_empty() {
            // Seen before the read, so that what comes after it is not missed.
            self.news.mark_unchanged();
            match self.api.store.events_after(&self.owner, self.last, BATCH).await {
                Ok(events) if events.is_empty() => {
                    // Neither the end of the time nor that of the sender matters: there is another look.
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.news.changed()).await;
                }
                Ok(events) => {
                    self.last = events.last().map_or(self.last, |event| event.id);
                    let hears = |event: &Event| self.kinds == Kinds::All || !event.kind.is_for_auditors();
                    self.read.extend(events.into_iter().filter(hears));
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a listener is sent away");
                    return None;
                }
            }
        }
        let event = self.read.pop_front()?;
        let body = match body(&self.api, &self.owner, &event, WithSandbox::Yes).await {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a listener is sent away");
                return None;
            }
        };
        Some((frame(event.id, event.kind.as_str(), &body), self))
    }
}

/// Whether an event shows the sandbox as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WithSandbox {
    Yes,
    No,
}

async fn body(api: &Api, owner: &OwnerId, event: &Event, with: WithSandbox) -> Result<Value, StoreError> {
    let sandbox = match sandbox_of(event).filter(|_| with == WithSandbox::Yes) {
        Some(id) => api.store.get(owner, &id).await?,
        None => None,
    };
    let details = &event.details;
    let kind = if event.resource_type == "sandbox" { "capsule" } else { &event.resource_type };
    let mut body = json!({
        "event": event.kind.as_str(),
        "resource": {"id": event.resource_id, "type": kind},
        "actor": actor(details.actor, owner),
        "timestamp": seconds(event.at),
    });
    let outcome = details.outcome.map(|outcome| match outcome {
        Outcome::Success => "success",
        Outcome::Error => "error",
    });
    let metadata = (!details.metadata.is_empty()).then_some(&details.metadata);
    for (name, member) in [
        ("outcome", outcome.map(Value::from)),
        ("error", details.error.clone().map(Value::from)),
        ("metadata", metadata.map(|metadata| json!(metadata))),
        ("sandbox", sandbox.map(|sandbox| value(Surface::Capsules, &sandbox))),
    ] {
        if let Some(member) = member {
            body[name] = member;
        }
    }
    Ok(body)
}

/// Where the server asks for no key, whoever asks is a user.
fn actor(actor: Actor, owner: &OwnerId) -> Value {
    let owner = owner.as_str();
    match actor {
        Actor::System => json!({"type": "system", "id": "", "name": "sandpiper"}),
        Actor::Owner if owner.is_empty() => json!({"type": "user", "id": "", "name": ""}),
        Actor::Owner => json!({"type": "api_key", "id": owner, "name": owner}),
    }
}
