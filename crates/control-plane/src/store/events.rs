//! What happened, for those who listen. Kept with numbers that grow in the order of the commits, and bounded.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::Timestamp;
use model::{HostId, OwnerId, SandboxId, Status};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::connections::Connection;
use super::{Sandbox, Snapshot, Store, StoreError, failed};

/// Events that are kept.
const KEPT: i64 = 100_000;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A sandbox was, or was not, made.
    Create,
    /// Paused, or not.
    Pause,
    /// Resumed, or not.
    Resume,
    /// Deleted, or not.
    Destroy,
    /// A snapshot was, or was not, made.
    SnapshotCreate,
    /// A snapshot was, or was not, deleted.
    SnapshotDelete,
    /// A command was, or was not, run in a sandbox.
    Exec,
    /// An API key was made.
    KeyCreate,
    /// An API key was revoked.
    KeyRevoke,
    /// An API key is in use, told at most once an hour.
    KeyUse,
    /// What a sandbox may reach is something else.
    NetworkChanged,
    /// A sandbox's status is another one.
    StateChanged,
    /// A host answers again.
    HostUp,
    /// A host does not answer.
    HostDown,
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The owner, by a request.
    Owner,
    /// Nobody asked for it.
    System,
}

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it was meant to.
    Success,
    /// Otherwise.
    Error,
}

/// What is said of an event beside what it is and when it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// Who did it.
    pub actor: Actor,
    /// How it ended; only of actions.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Why it did not work.
    #[serde(default)]
    pub error: Option<String>,
    /// What else there is to say.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// An action that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    kind: EventKind,
    details: Details,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub id: i64,
    /// When it was.
    pub at: Timestamp,
    /// What it was.
    pub kind: EventKind,
    /// `sandbox`, `snapshot`, `host` or `key`.
    pub resource_type: String,
    /// Which one.
    pub resource_id: String,
    /// The rest.
    pub details: Details,
}

impl EventKind {
    const ALL: [Self; 14] = [
        Self::Create,
        Self::Pause,
        Self::Resume,
        Self::Destroy,
        Self::SnapshotCreate,
        Self::SnapshotDelete,
        Self::Exec,
        Self::KeyCreate,
        Self::KeyRevoke,
        Self::KeyUse,
        Self::NetworkChanged,
        Self::StateChanged,
        Self::HostUp,
        Self::HostDown,
    ];

    /// Whether only who asks for everything is told of it: the published clients know no such kind.
    pub fn is_for_auditors(self) -> bool {
        matches!(self, Self::Exec | Self::KeyCreate | Self::KeyRevoke | Self::KeyUse | Self::NetworkChanged)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "capsule.create",
            Self::Pause => "capsule.pause",
            Self::Resume => "capsule.resume",
            Self::Destroy => "capsule.destroy",
            Self::SnapshotCreate => "template.snapshot.create",
            Self::SnapshotDelete => "template.snapshot.delete",
            Self::Exec => "capsule.exec",
            Self::KeyCreate => "key.create",
            Self::KeyRevoke => "key.revoke",
            Self::KeyUse => "key.use",
            Self::NetworkChanged => "capsule.network.changed",
            Self::StateChanged => "capsule.state.changed",
            Self::HostUp => "host.up",
            Self::HostDown => "host.down",
        }
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| format!("no kind of event: {text:?}"))
    }
}

impl Action {
    /// The owner asked for it and it is done.
    pub fn done(kind: EventKind) -> Self {
        let (actor, outcome) = (Actor::Owner, Some(Outcome::Success));
        Self { kind, details: Details { actor, outcome, error: None, metadata: BTreeMap::new() } }
    }

    /// The owner asked for it and it did not work.
    pub fn failed(kind: EventKind, error: String) -> Self {
        let mut action = Self::done(kind);
        action.details.outcome = Some(Outcome::Error);
        action.details.error = Some(error.replace('\0', "\u{fffd}"));
        action
    }

    /// Also this.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.details.metadata.insert(name.to_owned(), value.into().replace('\0', "\u{fffd}"));
        self
    }

    /// It happened by itself.
    pub fn by_itself(kind: EventKind, reason: &str) -> Self {
        let mut action = Self::done(kind);
        action.details.actor = Actor::System;
        action.details.metadata.insert("reason".to_owned(), reason.to_owned());
        action
    }
}

impl<'r> FromRow<'r, AnyRow> for Event {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let text = |column| row.try_get::<String, _>(column);
        let undecodable = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        Ok(Self {
            id: row.try_get("id")?,
            at: Timestamp::from_millisecond(row.try_get("at")?).map_err(|error| undecodable(error.into()))?,
            kind: text("kind")?.parse().map_err(|error: String| undecodable(error.into()))?,
            resource_type: text("resource_type")?,
            resource_id: text("resource_id")?,
            details: serde_json::from_str(&text("details")?).map_err(|error| undecodable(error.into()))?,
        })
    }
}

/// Something to be recorded.
struct New<'a> {
    owner: Option<&'a OwnerId>,
    kind: EventKind,
    resource: (&'static str, &'a str),
    details: Details,
}

impl Store {
    /// Records an action on a sandbox that changed nothing in its record.
    pub async fn record_action(&self, sandbox: &Sandbox, action: Action) -> Result<(), StoreError> {
        let recorded = async {
            let mut transaction = self.pool.begin().await?;
            let last = append_action(&mut transaction, sandbox, action).await?;
            transaction.commit().await?;
            Ok(last)
        };
        let last = recorded.await.map_err(failed("record the event"))?;
        self.tell(last);
        Ok(())
    }

    /// Records that a host is up or down.
    pub async fn record_host(&self, host: &HostId, kind: EventKind) -> Result<(), StoreError> {
        let details = Details { actor: Actor::System, outcome: None, error: None, metadata: BTreeMap::new() };
        let new = New { owner: None, kind, resource: ("host", host.as_str()), details };
        let recorded = async {
            let mut transaction = self.pool.begin().await?;
            let last = append(&mut transaction, new).await?;
            transaction.commit().await?;
            Ok(last)
        };
        let last = recorded.await.map_err(failed("record the event"))?;
        self.tell(last);
        Ok(())
    }

    /// The number of the newest event of anybody.
    pub async fn last_event(&self) -> Result<i64, StoreError> {
        let last = sqlx::query_scalar("select last from event_sequence").fetch_one(&self.pool).await;
        last.map_err(failed("read the events"))
    }

    /// An owner's events after a number, the oldest first.
    pub async fn events_after(&self, owner: &OwnerId, id: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        sqlx::query_as(
            "select * from events where id > $1 and (owner_id = $2 or owner_id is null) order by id limit $3",
        )
        .bind(id)
        .bind(owner.as_str())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the events"))
    }

    /// What happened to one sandbox of an owner, the oldest first, as far as it is kept; the newest of more than `limit`.
    pub async fn events_of(&self, owner: &OwnerId, id: &SandboxId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let mut events: Vec<Event> = sqlx::query_as(
            "select * from events where owner_id = $1 and resource_type = 'sandbox' and resource_id = $2 \
             order by id desc limit $3",
        )
        .bind(owner.as_str())
        .bind(id.as_str())
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the sandbox's events"))?;
        events.reverse();
        Ok(events)
    }

    /// Who wants to know when there is something new watches this. What other processes record is not in it.
    pub fn news(&self) -> tokio::sync::watch::Receiver<i64> {
        self.news.subscribe()
    }

    pub(super) fn tell(&self, last: i64) {
        self.news.send_if_modified(|known| last > std::mem::replace(known, last.max(*known)));
    }
}

/// Records a change of status, and the action that led to it. The transaction's last work: from here on others wait.
pub(super) async fn append_change(
    connection: &mut Connection,
    from: Status,
    sandbox: &Sandbox,
    action: Option<Action>,
) -> Result<i64, sqlx::Error> {
    let mut last = 0;
    if from != sandbox.status {
        let texts = [("from", from.as_str()), ("to", sandbox.status.as_str()), ("reason", &sandbox.status_reason)];
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
        let actor = action.as_ref().map_or(Actor::System, |action| action.details.actor);
        let metadata = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let details = Details { actor, outcome: None, error: None, metadata };
        let (kind, resource) = (EventKind::StateChanged, ("sandbox", sandbox.id.as_str()));
        last = append(connection, New { owner: Some(&sandbox.owner), kind, resource, details }).await?;
    }
    match action {
        Some(action) => append_action(connection, sandbox, action).await,
        None => Ok(last),
    }
}

pub(super) async fn append_action(
    connection: &mut Connection,
    sandbox: &Sandbox,
    Action { kind, details }: Action,
) -> Result<i64, sqlx::Error> {
    let resource = ("sandbox", sandbox.id.as_str());
    append(connection, New { owner: Some(&sandbox.owner), kind, resource, details }).await
}

/// Records an action on a snapshot, with what may be gone when somebody hears of it.
pub(super) async fn append_of_snapshot(
    connection: &mut Connection,
    snapshot: &Snapshot,
    Action { kind, mut details }: Action,
) -> Result<i64, sqlx::Error> {
    details.metadata.insert("sandbox_id".to_owned(), snapshot.sandbox.to_string());
    details.metadata.extend(snapshot.name.as_ref().map(|name| ("name".to_owned(), name.to_string())));
    let resource = ("snapshot", snapshot.id.as_str());
    append(connection, New { owner: Some(&snapshot.owner), kind, resource, details }).await
}

/// Records something about an API key. Who makes or revokes one works on the database itself.
pub(super) async fn append_of_key(
    connection: &mut Connection,
    owner: &OwnerId,
    id: &str,
    kind: EventKind,
) -> Result<i64, sqlx::Error> {
    let actor = if kind == EventKind::KeyUse { Actor::Owner } else { Actor::System };
    let details = Details { actor, outcome: Some(Outcome::Success), error: None, metadata: BTreeMap::new() };
    append(connection, New { owner: Some(owner), kind, resource: ("key", id), details }).await
}

async fn append(connection: &mut Connection, new: New<'_>) -> Result<i64, sqlx::Error> {
    let id: i64 = sqlx::query_scalar("update event_sequence set last = last + 1 returning last")
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(
        "insert into events (id, owner_id, at, kind, resource_type, resource_id, details) \
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id)
    .bind(new.owner.map(OwnerId::as_str))
    .bind(Timestamp::now().as_millisecond())
    .bind(new.kind.as_str())
    .bind(new.resource.0)
    .bind(new.resource.1)
    .bind(serde_json::to_string(&new.details).map_err(|error| sqlx::Error::Encode(error.into()))?)
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from events where id <= $1").bind(id - KEPT).execute(connection).await?;
    Ok(id)
}

/// For sandboxes that are looked up when an event is told.
pub fn sandbox_of(event: &Event) -> Option<SandboxId> {
    (event.resource_type == "sandbox").then(|| event.resource_id.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(
        changes_and_actions_are_events_of_their_owner,
        what_is_not_committed_is_no_event_and_numbers_grow,
        only_the_newest_are_kept,
    );

    async fn insert(store: &Store, owner: &str) -> Sandbox {
        let new = testing::sandbox(owner);
        store.insert(&new).await.unwrap()
    }

    async fn changes_and_actions_are_events_of_their_owner(database: Database) {
        let store = database.open().await;
        let (alice, bob): (OwnerId, OwnerId) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let mut news = store.news();
        let pending = insert(&store, "alice").await;
        let change = Change::running().with_action(Action::done(EventKind::Create));
        let running = store.update(&pending, change).await.unwrap().unwrap();
        store.record_action(&running, Action::failed(EventKind::Destroy, "no\0".into())).await.unwrap();
        store.record_host(&"default".parse().unwrap(), EventKind::HostDown).await.unwrap();
        assert!(news.has_changed().unwrap() && *news.borrow_and_update() == store.last_event().await.unwrap());
        let events = store.events_after(&alice, 0, 100).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::StateChanged, EventKind::Create, EventKind::Destroy, EventKind::HostDown]);
        assert_eq!(events[0].details.metadata["to"], "running");
        assert_eq!(events[0].details.actor, Actor::Owner);
        assert_eq!(
            (events[2].details.outcome, events[2].details.error.as_deref()),
            (Some(Outcome::Error), Some("no\u{fffd}"))
        );
        assert_eq!(sandbox_of(&events[1]), Some(running.id));
        let others = store.events_after(&bob, 0, 100).await.unwrap();
        assert_eq!(others, [events[3].clone()], "hosts are everybody's");
        assert_eq!(store.events_after(&alice, events[2].id, 100).await.unwrap(), others);
        assert_eq!(store.events_after(&alice, 0, 2).await.unwrap(), events[..2]);
    }

    async fn what_is_not_committed_is_no_event_and_numbers_grow(database: Database) {
        let store = database.open().await;
        let pending = insert(&store, "").await;
        store.update(&pending, Change::running()).await.unwrap().unwrap();
        assert_eq!(store.update(&pending, Change::to(Status::Error)).await.unwrap(), None, "it lost");
        let many = futures::future::join_all((0..20).map(|_| async {
            let pending = insert(&store, "").await;
            store.update(&pending, Change::running()).await.unwrap().unwrap();
        }));
        many.await;
        let events = store.events_after(&OwnerId::nobody(), 0, 100).await.unwrap();
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        assert_eq!(ids, (1..=21).collect::<Vec<_>>());
    }

    async fn only_the_newest_are_kept(database: Database) {
        let store = database.open().await;
        let host = "default".parse().unwrap();
        store.record_host(&host, EventKind::HostDown).await.unwrap();
        sqlx::query("update event_sequence set last = $1").bind(KEPT).execute(&store.pool).await.unwrap();
        store.record_host(&host, EventKind::HostUp).await.unwrap();
        let events = store.events_after(&OwnerId::nobody(), 0, 100).await.unwrap();
        assert_eq!(events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::HostUp]);
    }
}
