//! Snapshots: their records and the queries about them. Each changes its status in one direction only, so that an update
//! names the status that it was decided on.

use jiff::Timestamp;
use model::{
    HostId, OwnerId, SandboxId, Shape, SnapshotId, SnapshotKind, SnapshotName, SnapshotRef, SnapshotStatus, Tag,
    TemplateName,
};
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::events::append_of_snapshot;
use super::record::{optional, parse, shape, time};
use super::tags::take;
use super::{Action, Store, StoreError, failed};

/// How a snapshot comes to its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// It has none.
    Unnamed,
    /// It has one that nobody else has.
    New(SnapshotName),
    /// It takes one, with a tag, when it is ready, and whoever is called so until then, and nothing else, is deleted.
    Replacing(SnapshotName, Tag),
}

/// A snapshot that is about to be captured.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Who asked for it.
    pub owner: OwnerId,
    /// Where it will be.
    pub host: HostId,
    /// What is captured.
    pub sandbox: SandboxId,
    /// What it is there for.
    pub kind: SnapshotKind,
    /// What it is called.
    pub naming: Naming,
    /// What the sandbox was made from in the first place.
    pub template: TemplateName,
    /// What the sandbox is made of.
    pub shape: Shape,
}

/// A snapshot as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Who it belongs to.
    pub owner: OwnerId,
    /// Where it is.
    pub host: HostId,
    /// What it is called, if it is.
    pub name: Option<SnapshotName>,
    /// What it is there for.
    pub kind: SnapshotKind,
    /// Its state.
    pub status: SnapshotStatus,
    /// What was captured.
    pub sandbox: SandboxId,
    /// What that was made from in the first place.
    pub template: TemplateName,
    /// What sandboxes from it are made of.
    pub shape: Shape,
    /// What its files take on the host's disk.
    pub size_bytes: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When a sandbox was last made from it.
    pub last_used_at: Option<Timestamp>,
    /// When the record last changed.
    pub last_updated: Timestamp,
    /// What it will be called.
    takes: Option<(SnapshotName, Tag)>,
}

/// Which of an owner's snapshots are wanted. The default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Of this sandbox.
    pub sandbox: Option<SandboxId>,
    /// Of sandboxes that were made from this template.
    pub template: Option<TemplateName>,
}

/// What came of completing a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The snapshot, which is ready.
    pub snapshot: Snapshot,
    /// The one whose name it took, which is to be deleted.
    pub replaced: Option<Snapshot>,
}

/// Whether sandboxes that came from a snapshot keep it from being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// They do.
    Matters,
    /// They keep what they need of it by themselves.
    DoesNotMatter,
}

impl Snapshot {
    /// What people call it: by its name, or by its id where it has none.
    pub fn label(&self) -> &str {
        self.name.as_ref().map_or(self.id.as_str(), SnapshotName::as_str)
    }
}

impl<'r> FromRow<'r, AnyRow> for Snapshot {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: parse(row, "id")?,
            owner: parse(row, "owner_id")?,
            host: parse(row, "host_id")?,
            name: optional(row, "name")?,
            kind: parse(row, "kind")?,
            status: parse(row, "status")?,
            sandbox: parse(row, "sandbox_id")?,
            template: parse(row, "template")?,
            shape: shape(row)?,
            size_bytes: row.try_get("size_bytes")?,
            created_at: time(row, "created_at")?.unwrap_or_default(),
            last_used_at: time(row, "last_used_at")?,
            last_updated: time(row, "last_updated")?.unwrap_or_default(),
            takes: optional(row, "takes_name")?.map(|name| Ok::<_, sqlx::Error>((name, tag(row)?))).transpose()?,
        })
    }
}

/// The tag with which it takes its name.
fn tag(row: &AnyRow) -> Result<Tag, sqlx::Error> {
    Ok(optional(row, "takes_tag")?.map_or(Tag::Default, Tag::Given))
}

impl Store {
    /// Records a snapshot as pending, unless its owner has another one of that name.
    pub async fn insert_snapshot(&self, new: &NewSnapshot) -> Result<Option<Snapshot>, StoreError> {
        let (name, takes_name, takes_tag) = match &new.naming {
            Naming::Unnamed => (None, None, None),
            Naming::New(name) => (Some(name.as_str()), None, None),
            Naming::Replacing(name, Tag::Default) => (None, Some(name.as_str()), None),
            Naming::Replacing(name, Tag::Given(tag)) => (None, Some(name.as_str()), Some(tag.as_str())),
        };
        let now = Timestamp::now().as_millisecond();
        sqlx::query_as(
            "insert into snapshots (id, owner_id, host_id, name, takes_name, kind, status, sandbox_id, template, vcpus, \
             memory_mb, disk_mb, created_at, last_updated, takes_tag) \
             values ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, $9, $10, $11, $12, $12, $13) \
             on conflict (owner_id, name) do nothing returning *",
        )
        .bind(new.id.as_str())
        .bind(new.owner.as_str())
        .bind(new.host.as_str())
        .bind(name)
        .bind(takes_name)
        .bind(new.kind.as_str())
        .bind(new.sandbox.as_str())
        .bind(new.template.as_str())
        .bind(i64::from(new.shape.vcpus.get()))
        .bind(i64::from(new.shape.memory.get()))
        .bind(i64::from(new.shape.disk.get()))
        .bind(now)
        .bind(takes_tag)
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("record the snapshot"))
    }

    /// One of an owner's snapshots that are not hidden.
    pub async fn get_snapshot(&self, owner: &OwnerId, wanted: &SnapshotRef) -> Result<Option<Snapshot>, StoreError> {
        let query = match wanted {
            SnapshotRef::Id(id) => {
                sqlx::query_as("select * from snapshots where owner_id = $1 and kind = 'named' and id = $2")
                    .bind(owner.as_str())
                    .bind(id.as_str().to_owned())
            }
            SnapshotRef::Name(name) => {
                sqlx::query_as("select * from snapshots where owner_id = $1 and kind = 'named' and name = $2")
                    .bind(owner.as_str())
                    .bind(name.as_str().to_owned())
            }
        };
        query.fetch_optional(&self.pool).await.map_err(failed("read the snapshot's record"))
    }

    /// An owner's snapshots that are not hidden, the newest first.
    pub async fn list_snapshots(&self, owner: &OwnerId, filter: &SnapshotFilter) -> Result<Vec<Snapshot>, StoreError> {
        sqlx::query_as(
            "select * from snapshots where owner_id = $1 and kind = 'named' and sandbox_id = coalesce($2, sandbox_id) \
             and template = coalesce($3, template) order by created_at desc, id",
        )
        .bind(owner.as_str())
        .bind(filter.sandbox.as_ref().map(SandboxId::as_str))
        .bind(filter.template.as_ref().map(TemplateName::as_str))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("list snapshots"))
    }

    /// Every owner's snapshots on a host, hidden ones too.
    pub async fn list_snapshots_on(&self, host: &HostId) -> Result<Vec<Snapshot>, StoreError> {
        sqlx::query_as("select * from snapshots where host_id = $1")
            .bind(host.as_str())
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list the host's snapshots"))
    }

    /// Whether there is any owner's record of a snapshot.
    pub async fn has_snapshot(&self, id: &SnapshotId) -> Result<bool, StoreError> {
        let found = sqlx::query("select 1 from snapshots where id = $1").bind(id.as_str());
        let found = found.fetch_optional(&self.pool).await.map_err(failed("read the snapshot's record"))?;
        Ok(found.is_some())
    }

    /// Records that a pending snapshot is there, and gives it the name that it was to take. `None` if it is not pending
    /// any more.
    pub async fn complete_snapshot(
        &self,
        seen: &Snapshot,
        size_bytes: i64,
        action: Option<Action>,
    ) -> Result<Option<Completed>, StoreError> {
        let now = Timestamp::now().as_millisecond();
        let completed = async {
            let mut transaction = self.pool.begin().await?;
            let replaced = match &seen.takes {
                Some((name, tag)) => take(&mut transaction, &seen.owner, (name, tag), &seen.id, now).await?,
                None => None,
            };
            let snapshot: Option<Snapshot> = sqlx::query_as(
                "update snapshots set status = 'ready', takes_name = null, takes_tag = null, \
                 name = case when takes_tag is null then coalesce(takes_name, name) else name end, size_bytes = $1, last_updated = $2 where id = $3 and owner_id = $4 and status = 'pending' returning *",
            )
            .bind(size_bytes)
            .bind(now)
            .bind(seen.id.as_str())
            .bind(seen.owner.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(snapshot) = snapshot else { return Ok(None) };
            let last = match action {
                Some(action) => append_of_snapshot(&mut transaction, &snapshot, action).await?,
                None => 0,
            };
            transaction.commit().await?;
            Ok(Some((Completed { snapshot, replaced }, last)))
        };
        let completed = completed.await.map_err(failed("record that the snapshot is there"))?;
        Ok(completed.map(|(completed, last)| {
            self.tell(last);
            completed
        }))
    }

    /// Records that a snapshot is to be removed, if its status is the one that was seen and, where that matters, no live
    /// sandbox came from it. Else `None`, and nothing has happened.
    pub async fn condemn_snapshot(&self, seen: &Snapshot, needed: Needed) -> Result<Option<Snapshot>, StoreError> {
        let query = match needed {
            Needed::Matters => {
                "update snapshots set status = 'deleting', last_updated = $1 \
                 where id = $2 and owner_id = $3 and status = $4 and not exists (select 1 from sandboxes \
                 where snapshot_id = snapshots.id and sandboxes.status not in ('stopped', 'error')) returning *"
            }
            Needed::DoesNotMatter => {
                "update snapshots set status = 'deleting', last_updated = $1 \
                 where id = $2 and owner_id = $3 and status = $4 returning *"
            }
        };
        sqlx::query_as(query)
            .bind(Timestamp::now().as_millisecond())
            .bind(seen.id.as_str())
            .bind(seen.owner.as_str())
            .bind(seen.status.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("record that the snapshot is deleted"))
    }

    /// The owner's live sandboxes that came from a snapshot.
    pub async fn users_of(&self, snapshot: &Snapshot) -> Result<Vec<SandboxId>, StoreError> {
        let ids: Vec<String> = sqlx::query_scalar(
            "select id from sandboxes where owner_id = $1 and snapshot_id = $2 \
             and status not in ('stopped', 'error') order by created_at, id",
        )
        .bind(snapshot.owner.as_str())
        .bind(snapshot.id.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(failed("look for sandboxes that came from the snapshot"))?;
        Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
    }

    /// Records that a sandbox is being made from a snapshot.
    pub async fn touch_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        sqlx::query("update snapshots set last_used_at = $1, last_updated = $1 where id = $2")
            .bind(Timestamp::now().as_millisecond())
            .bind(id.as_str())
            .execute(&self.pool)
            .await
            .map_err(failed("record the snapshot's use"))?;
        Ok(())
    }

    /// Removes the record of a snapshot that is gone, if its status is the one that was seen, and records how it went.
    pub async fn forget_snapshot(&self, seen: &Snapshot, action: Option<Action>) -> Result<bool, StoreError> {
        let forgotten = async {
            let mut transaction = self.pool.begin().await?;
            let done = sqlx::query("delete from snapshots where id = $1 and owner_id = $2 and status = $3")
                .bind(seen.id.as_str())
                .bind(seen.owner.as_str())
                .bind(seen.status.as_str())
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 {
                return Ok(None);
            }
            let last = match action {
                Some(action) => append_of_snapshot(&mut transaction, seen, action).await?,
                None => 0,
            };
            transaction.commit().await?;
            Ok(Some(last))
        };
        let forgotten = forgotten.await.map_err(failed("remove the snapshot's record"))?;
        Ok(forgotten.map(|last| self.tell(last)).is_some())
    }

    /// Records an action on a snapshot that changed nothing in its record.
    pub async fn record_snapshot_action(&self, snapshot: &Snapshot, action: Action) -> Result<(), StoreError> {
        let recorded = async {
            let mut transaction = self.pool.begin().await?;
            let last = append_of_snapshot(&mut transaction, snapshot, action).await?;
            transaction.commit().await?;
            Ok(last)
        };
        let last = recorded.await.map_err(failed("record the event"))?;
        self.tell(last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use model::Status;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Change, EventKind, NewSandbox};

    testing::on_every_engine!(
        what_was_recorded_is_read_back_by_id_and_by_name,
        a_name_belongs_to_one_snapshot_of_an_owner,
        a_name_is_taken_only_when_its_new_bearer_is_ready,
        what_a_live_sandbox_came_from_is_not_condemned,
        hidden_snapshots_are_listed_for_the_host_alone,
        a_status_decides_who_may_change_a_record,
        the_end_of_a_snapshot_is_an_event_of_its_owner,
    );

    fn new(owner: &str, naming: Naming) -> NewSnapshot {
        NewSnapshot {
            id: SnapshotId::random(),
            owner: owner.parse().unwrap(),
            host: "default".parse().unwrap(),
            sandbox: SandboxId::random(),
            kind: SnapshotKind::Named,
            naming,
            template: "minimal".parse().unwrap(),
            shape: Default::default(),
        }
    }

    fn named(name: &str) -> Naming {
        Naming::New(name.parse().unwrap())
    }

    async fn ready(store: &Store, new: NewSnapshot) -> Snapshot {
        let pending = store.insert_snapshot(&new).await.unwrap().unwrap();
        store.complete_snapshot(&pending, 4096, None).await.unwrap().unwrap().snapshot
    }

    async fn find(store: &Store, owner: &str, wanted: &str) -> Option<Snapshot> {
        store.get_snapshot(&owner.parse().unwrap(), &wanted.parse().unwrap()).await.unwrap()
    }

    async fn what_was_recorded_is_read_back_by_id_and_by_name(database: Database) {
        let store = database.open().await;
        let pending = store.insert_snapshot(&new("alice", named("Base"))).await.unwrap().unwrap();
        assert_eq!((pending.status, pending.label(), pending.size_bytes), (SnapshotStatus::Pending, "Base", 0));
        let done = store.complete_snapshot(&pending, 1 << 40, None).await.unwrap().unwrap();
        assert_eq!(
            (done.snapshot.status, done.snapshot.size_bytes, done.replaced),
            (SnapshotStatus::Ready, 1 << 40, None)
        );
        store.touch_snapshot(&pending.id).await.unwrap();
        let found = find(&store, "alice", "Base").await.unwrap();
        assert!(found.last_used_at.is_some());
        assert_eq!(find(&store, "alice", pending.id.as_str()).await, Some(found));
        assert_eq!(find(&store, "bob", pending.id.as_str()).await, None);
        assert_eq!(find(&store, "bob", "Base").await, None);
        let unnamed = ready(&store, new("alice", Naming::Unnamed)).await;
        assert_eq!(unnamed.label(), unnamed.id.as_str());
        let other =
            ready(&store, NewSnapshot { template: "python311".parse().unwrap(), ..new("alice", Naming::Unnamed) });
        let other = other.await;
        let ids = async |filter: SnapshotFilter| {
            let list = store.list_snapshots(&"alice".parse().unwrap(), &filter).await.unwrap();
            list.into_iter().map(|snapshot| snapshot.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(SnapshotFilter::default()).await.len(), 3);
        let sandbox = SnapshotFilter { sandbox: Some(unnamed.sandbox.clone()), ..Default::default() };
        assert_eq!(ids(sandbox).await, [unnamed.id]);
        let template = SnapshotFilter { template: Some("python311".parse().unwrap()), ..Default::default() };
        assert_eq!(ids(template).await, [other.id]);
    }

    async fn a_name_belongs_to_one_snapshot_of_an_owner(database: Database) {
        let store = database.open().await;
        let first = ready(&store, new("alice", named("a"))).await;
        assert_eq!(store.insert_snapshot(&new("alice", named("a"))).await.unwrap(), None);
        assert!(store.insert_snapshot(&new("bob", named("a"))).await.unwrap().is_some());
        assert!(store.insert_snapshot(&new("alice", named("A"))).await.unwrap().is_some());
        for _ in 0..2 {
            assert!(store.insert_snapshot(&new("alice", Naming::Unnamed)).await.unwrap().is_some());
        }
        let condemned = store.condemn_snapshot(&first, Needed::Matters).await.unwrap().unwrap();
        assert_eq!(store.insert_snapshot(&new("alice", named("a"))).await.unwrap(), None, "its files are still there");
        assert!(store.forget_snapshot(&condemned, None).await.unwrap());
        assert!(store.insert_snapshot(&new("alice", named("a"))).await.unwrap().is_some());
    }

    async fn a_name_is_taken_only_when_its_new_bearer_is_ready(database: Database) {
        let store = database.open().await;
        let old = ready(&store, new("alice", named("a"))).await;
        let others = ready(&store, new("bob", named("a"))).await;
        let wish = new("alice", Naming::Replacing("a".parse().unwrap(), Tag::Default));
        let pending = store.insert_snapshot(&wish).await.unwrap().unwrap();
        assert_eq!(find(&store, "alice", "a").await.unwrap().id, old.id);
        let done = store.complete_snapshot(&pending, 1, None).await.unwrap().unwrap();
        let replaced = done.replaced.unwrap();
        assert_eq!((&replaced.id, &replaced.name, replaced.status), (&old.id, &None, SnapshotStatus::Deleting));
        assert_eq!(find(&store, "alice", "a").await, Some(done.snapshot));
        assert_eq!(find(&store, "bob", "a").await, Some(others));
        assert_eq!(store.complete_snapshot(&pending, 1, None).await.unwrap(), None, "it is not pending any more");
        assert_eq!(find(&store, "alice", "a").await.unwrap().id, pending.id, "and took no name again");
    }

    async fn what_a_live_sandbox_came_from_is_not_condemned(database: Database) {
        let store = database.open().await;
        let snapshot = ready(&store, new("alice", Naming::Unnamed)).await;
        let child = NewSandbox { snapshot: Some(snapshot.id.clone()), ..testing::sandbox("alice") };
        let child = store.insert(&child).await.unwrap();
        assert_eq!(child.snapshot.as_ref(), Some(&snapshot.id));
        store.insert(&testing::sandbox("alice")).await.unwrap();
        assert_eq!(store.condemn_snapshot(&snapshot, Needed::Matters).await.unwrap(), None);
        assert_eq!(store.users_of(&snapshot).await.unwrap(), std::slice::from_ref(&child.id));
        store.update(&child, Change::to(Status::Stopped)).await.unwrap().unwrap();
        assert_eq!(store.users_of(&snapshot).await.unwrap(), []);
        assert!(store.condemn_snapshot(&snapshot, Needed::Matters).await.unwrap().is_some());
    }

    async fn hidden_snapshots_are_listed_for_the_host_alone(database: Database) {
        let store = database.open().await;
        let hidden = ready(&store, NewSnapshot { kind: SnapshotKind::Fork, ..new("", Naming::Unnamed) }).await;
        assert_eq!(find(&store, "", hidden.id.as_str()).await, None);
        assert_eq!(store.list_snapshots(&OwnerId::nobody(), &SnapshotFilter::default()).await.unwrap(), []);
        assert_eq!(store.list_snapshots_on(&hidden.host).await.unwrap(), std::slice::from_ref(&hidden));
        assert_eq!(store.list_snapshots_on(&"other".parse().unwrap()).await.unwrap(), []);
        assert!(store.has_snapshot(&hidden.id).await.unwrap());
        assert!(!store.has_snapshot(&SnapshotId::random()).await.unwrap());
    }

    async fn a_status_decides_who_may_change_a_record(database: Database) {
        let store = database.open().await;
        let pending = store.insert_snapshot(&new("alice", Naming::Unnamed)).await.unwrap().unwrap();
        let ready = store.complete_snapshot(&pending, 1, None).await.unwrap().unwrap().snapshot;
        assert_eq!(store.condemn_snapshot(&pending, Needed::DoesNotMatter).await.unwrap(), None);
        assert!(!store.forget_snapshot(&pending, None).await.unwrap());
        let forged = Snapshot { owner: "bob".parse().unwrap(), ..ready.clone() };
        assert_eq!(store.condemn_snapshot(&forged, Needed::DoesNotMatter).await.unwrap(), None);
        assert!(!store.forget_snapshot(&forged, None).await.unwrap());
        let deleting = store.condemn_snapshot(&ready, Needed::DoesNotMatter).await.unwrap().unwrap();
        assert!(store.forget_snapshot(&deleting, None).await.unwrap());
    }

    async fn the_end_of_a_snapshot_is_an_event_of_its_owner(database: Database) {
        let store = database.open().await;
        let pending = store.insert_snapshot(&new("alice", named("a"))).await.unwrap().unwrap();
        let made = Action::done(EventKind::SnapshotCreate);
        let snapshot = store.complete_snapshot(&pending, 1, Some(made)).await.unwrap().unwrap().snapshot;
        let reason = Action::by_itself(EventKind::SnapshotDelete, "too old");
        assert!(store.forget_snapshot(&snapshot, Some(reason)).await.unwrap());
        let failed = Action::failed(EventKind::SnapshotDelete, "no".to_owned());
        store.record_snapshot_action(&snapshot, failed).await.unwrap();
        let events = store.events_after(&"alice".parse().unwrap(), 0, 10).await.unwrap();
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::SnapshotCreate, EventKind::SnapshotDelete, EventKind::SnapshotDelete]);
        assert!(
            events.iter().all(|event| event.resource_type == "snapshot" && event.resource_id == snapshot.id.as_str())
        );
        assert_eq!(events[0].details.metadata["name"], "a");
        assert_eq!(events[1].details.metadata["reason"], "too old");
        assert_eq!(store.events_after(&"bob".parse().unwrap(), 0, 10).await.unwrap(), []);
    }
}
