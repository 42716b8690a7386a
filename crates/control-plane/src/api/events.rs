//! What happens, as it happens: server-sent events out of the recorded ones. A listener that was away goes on where it
//! was, by the number of the last event that it has; one that is slow holds up nobody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::HeaderMap;
use jiff::Timestamp;
use model::OwnerId;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Api;
use super::error::ApiError;
use super::openapi::StoreErrors;
use super::request::Caller;
use super::sandboxes::{seconds, value};
use super::surface::Surface;
use crate::store::{Actor, Event, Outcome, StoreError, sandbox_of};

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Other processes may record events in the same database.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Events that are read at once.
const BATCH: u32 = 100;

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
    let given = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let news = api.store.news();
    let last = match given {
        Some(last) => last,
        None => api.store.last_event().await?,
    };
    let connected = json!({"event": "connected", "timestamp": seconds(Timestamp::now())});
    let connected = frame(last, "connected", &connected);
    let shutdown = api.shutdown.clone().cancelled_owned();
    let listener = Listener { api, owner, last, news, read: VecDeque::new() };
    let events = futures::stream::once(std::future::ready(connected))
        .chain(futures::stream::unfold(listener, Listener::next))
        .map(Ok::<_, Infallible>)
        .take_until(shutdown);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keepalive")).into_response())
}

fn frame(id: i64, kind: &str, body: &Value) -> Frame {
    Frame::default().id(id.to_string()).event(kind).data(body.to_string())
}

struct Listener {
    api: Arc<Api>,
    owner: OwnerId,
    /// The newest event that was read.
    last: i64,
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
                Ok(events) => self.read.extend(events),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a listener is sent away");
                    return None;
                }
            }
        }
        let event = self.read.pop_front()?;
        self.last = event.id;
        let body = match self.body(&event).await {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a listener is sent away");
                return None;
            }
        };
        Some((frame(event.id, event.kind.as_str(), &body), self))
    }

    async fn body(&self, event: &Event) -> Result<Value, StoreError> {
        let sandbox = match sandbox_of(event) {
            Some(id) => self.api.store.get(&self.owner, &id).await?,
            None => None,
        };
        let details = &event.details;
        let kind = if event.resource_type == "sandbox" { "capsule" } else { &event.resource_type };
        let mut body = json!({
            "event": event.kind.as_str(),
            "resource": {"id": event.resource_id, "type": kind},
            "actor": actor(details.actor, &self.owner),
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
