//! Tags that owners gave: what is called NAME:TAG beside what its name alone stands for. That is a column of the snapshot's
//! own record, and a template's name is its own.
//!
//! Whoever changes both a snapshot and a tag does so in this order, so that no two wait for each other.

use jiff::Timestamp;
use model::{GivenTag, OwnerId, SnapshotId, SnapshotName, SnapshotRef, SnapshotStatus, Tag};
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};

use super::connections::Connection;
use super::record::{parse, time};
use super::{Snapshot, Store, StoreError, failed};

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// The template of this name, whatever it is built of.
    Template,
    /// A snapshot.
    Snapshot(Box<Snapshot>),
}

/// A tag that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagging {
    /// Under which name.
    pub name: SnapshotRef,
    /// The tag.
    pub tag: GivenTag,
    /// What it stands for.
    pub meant: Meant,
    /// Since when.
    pub assigned_at: Timestamp,
}

impl Meant {
    /// The snapshot, where it is one that sandboxes can be made from.
    pub fn ready(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot(snapshot) => Some(&**snapshot).filter(|snapshot| snapshot.status == SnapshotStatus::Ready),
            Self::Template => None,
        }
    }
}

impl<'r> FromRow<'r, AnyRow> for Tagging {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let meant = match row.try_get::<Option<String>, _>("snapshot_id")? {
            Some(_) => Meant::Snapshot(Box::new(Snapshot::from_row(row)?)),
            None => Meant::Template,
        };
        let assigned_at = time(row, "assigned_at")?.unwrap_or_default();
        Ok(Self { name: parse(row, "tagged_name")?, tag: parse(row, "tag")?, meant, assigned_at })
    }
}

impl Store {
    /// An owner's tags, the oldest first; those under one name, where that is given.
    pub async fn taggings(&self, owner: &OwnerId, name: Option<&SnapshotRef>) -> Result<Vec<Tagging>, StoreError> {
        sqlx::query_as(
            "select snapshots.*, tags.template as tagged_name, tags.tag as tag, tags.snapshot_id as snapshot_id, \
             tags.assigned_at as assigned_at from tags left join snapshots on snapshots.id = tags.snapshot_id \
             where tags.owner_id = $1 and tags.template = coalesce($2, tags.template) \
             order by tags.assigned_at, tags.tag",
        )
        .bind(owner.as_str())
        .bind(name.map(ToString::to_string))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("list tags"))
    }

    /// Gives tags under a name, each of which stands for this from now on, whatever it stood for before. Returns whether
    /// that was there.
    pub async fn assign_tags(
        &self,
        owner: &OwnerId,
        name: &SnapshotRef,
        tags: &[Tag],
        meant: &Meant,
    ) -> Result<bool, StoreError> {
        let now = Timestamp::now().as_millisecond();
        let assigned = async {
            let mut transaction = self.pool.begin().await?;
            let snapshot = match meant {
                Meant::Template => None,
                Meant::Snapshot(snapshot) if hold(&mut transaction, owner, &snapshot.id, now).await? => {
                    Some(&snapshot.id)
                }
                Meant::Snapshot(_) => return Ok(false),
            };
            for tag in tags {
                match (tag, snapshot, name) {
                    (Tag::Given(tag), ..) => give(&mut transaction, owner, name, tag, snapshot, now).await?,
                    (Tag::Default, Some(snapshot), SnapshotRef::Name(name)) => {
                        rename(&mut transaction, owner, name, snapshot, now).await?;
                    }
                    // A template, and what has only an id, is what it is by itself.
                    (Tag::Default, ..) => {}
                }
            }
            transaction.commit().await?;
            Ok(true)
        };
        assigned.await.map_err(failed("give the tags"))
    }

    /// Takes tags away. What they stood for stays.
    pub async fn remove_tags(&self, owner: &OwnerId, name: &SnapshotRef, tags: &[GivenTag]) -> Result<(), StoreError> {
        let removed = async {
            let mut transaction = self.pool.begin().await?;
            for tag in tags {
                sqlx::query("delete from tags where owner_id = $1 and template = $2 and tag = $3")
                    .bind(owner.as_str())
                    .bind(name.to_string())
                    .bind(tag.as_str())
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await
        };
        removed.await.map_err(failed("take the tags away"))
    }
}

/// Keeps others from removing a snapshot as long as the transaction lasts, if it is ready.
async fn hold(connection: &mut Connection, owner: &OwnerId, id: &SnapshotId, now: i64) -> Result<bool, sqlx::Error> {
    let held = sqlx::query(
        "update snapshots set last_updated = $1 where id = $2 and owner_id = $3 and kind = 'named' and status = 'ready'",
    )
    .bind(now)
    .bind(id.as_str())
    .bind(owner.as_str())
    .execute(connection)
    .await?;
    Ok(held.rows_affected() == 1)
}

async fn give(
    connection: &mut Connection,
    owner: &OwnerId,
    name: &SnapshotRef,
    tag: &GivenTag,
    snapshot: Option<&SnapshotId>,
    now: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into tags (owner_id, template, tag, snapshot_id, assigned_at) values ($1, $2, $3, $4, $5) \
         on conflict (owner_id, template, tag) do update set snapshot_id = excluded.snapshot_id, \
         assigned_at = excluded.assigned_at",
    )
    .bind(owner.as_str())
    .bind(name.to_string())
    .bind(tag.as_str())
    .bind(snapshot.map(SnapshotId::as_str))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a snapshot a name. Whoever has it until then goes on without.
async fn rename(
    connection: &mut Connection,
    owner: &OwnerId,
    name: &SnapshotName,
    to: &SnapshotId,
    now: i64,
) -> Result<(), sqlx::Error> {
    let free = "update snapshots set name = null, last_updated = $1 where owner_id = $2 and name = $3 and id <> $4";
    let free = sqlx::query(free).bind(now).bind(owner.as_str()).bind(name.as_str()).bind(to.as_str());
    free.execute(&mut *connection).await?;
    let take = "update snapshots set last_updated = $1, name = $2 where owner_id = $3 and id = $4";
    let take = sqlx::query(take).bind(now).bind(name.as_str()).bind(owner.as_str()).bind(to.as_str());
    take.execute(connection).await?;
    Ok(())
}

/// Lets a snapshot take what it is to be called. Returns the one that was called so, if it is called nothing else and so
/// is to be deleted.
pub(super) async fn take(
    connection: &mut Connection,
    owner: &OwnerId,
    (name, tag): (&SnapshotName, &Tag),
    to: &SnapshotId,
    now: i64,
) -> Result<Option<Snapshot>, sqlx::Error> {
    let before: Option<Snapshot> = match tag {
        Tag::Default => {
            sqlx::query_as(
                "update snapshots set name = null, last_updated = $1 where owner_id = $2 and name = $3 returning *",
            )
            .bind(now)
            .bind(owner.as_str())
            .bind(name.as_str())
            .fetch_optional(&mut *connection)
            .await?
        }
        Tag::Given(tag) => {
            let before = sqlx::query_as(
                "update snapshots set last_updated = $1 where owner_id = $2 and id = (select snapshot_id from tags \
                 where owner_id = $2 and template = $3 and tag = $4) returning *",
            )
            .bind(now)
            .bind(owner.as_str())
            .bind(name.as_str())
            .bind(tag.as_str())
            .fetch_optional(&mut *connection)
            .await?;
            give(connection, owner, &SnapshotRef::Name(name.clone()), tag, Some(to), now).await?;
            before
        }
    };
    let Some(before) = before else { return Ok(None) };
    // A statement of its own: it sees what was done until the record was changed.
    sqlx::query_as(
        "update snapshots set status = 'deleting', last_updated = $1 where id = $2 and name is null \
         and not exists (select 1 from tags where snapshot_id = snapshots.id) returning *",
    )
    .bind(now)
    .bind(before.id.as_str())
    .fetch_optional(connection)
    .await
}

#[cfg(test)]
mod tests {
    use model::SnapshotKind;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Naming, Needed, NewSnapshot};

    testing::on_every_engine!(
        a_tag_is_its_owners_and_stands_for_one_thing,
        a_tag_goes_with_its_snapshot_and_not_the_other_way_round,
        a_name_is_given_to_another_snapshot,
        what_has_another_tag_is_not_replaced,
        what_is_being_deleted_gets_no_tag,
    );

    fn owner() -> OwnerId {
        "alice".parse().unwrap()
    }

    fn name(text: &str) -> SnapshotRef {
        text.parse().unwrap()
    }

    fn tags(text: &str) -> Vec<Tag> {
        text.split(' ').map(|tag| tag.parse().unwrap()).collect()
    }

    async fn made(store: &Store, called: &str) -> (Snapshot, Option<Snapshot>) {
        let naming = match called.split_once(':') {
            Some((name, tag)) => Naming::Replacing(name.parse().unwrap(), tag.parse().unwrap()),
            None => Naming::New(called.parse().unwrap()),
        };
        let new = NewSnapshot {
            id: SnapshotId::random(),
            owner: owner(),
            host: "default".parse().unwrap(),
            sandbox: model::SandboxId::random(),
            kind: SnapshotKind::Named,
            naming,
            template: "minimal".parse().unwrap(),
            shape: Default::default(),
        };
        let pending = store.insert_snapshot(&new).await.unwrap().unwrap();
        let completed = store.complete_snapshot(&pending, 1, None).await.unwrap().unwrap();
        (completed.snapshot, completed.replaced)
    }

    async fn snapshot(store: &Store, called: &str) -> Snapshot {
        made(store, called).await.0
    }

    /// What is under a name, as `tag` or `tag=id`.
    async fn under(store: &Store, called: &str) -> Vec<String> {
        let listed = store.taggings(&owner(), Some(&name(called))).await.unwrap();
        let told = listed.iter().map(|tagging| match &tagging.meant {
            Meant::Template => tagging.tag.to_string(),
            Meant::Snapshot(snapshot) => format!("{}={}", tagging.tag, snapshot.id),
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    }

    async fn assign(store: &Store, called: &str, given: &str, meant: Option<&Snapshot>) -> bool {
        let meant = meant.map_or(Meant::Template, |snapshot| Meant::Snapshot(Box::new(snapshot.clone())));
        store.assign_tags(&owner(), &name(called), &tags(given), &meant).await.unwrap()
    }

    async fn a_tag_is_its_owners_and_stands_for_one_thing(database: Database) {
        let store = database.open().await;
        assert!(assign(&store, "minimal", "v1 v2 default", None).await);
        assert_eq!(under(&store, "minimal").await, ["v1", "v2"]);
        assert_eq!(store.taggings(&"bob".parse().unwrap(), None).await.unwrap(), []);
        let (one, two) = (snapshot(&store, "a").await, snapshot(&store, "a:v2").await);
        assert!(assign(&store, "a", "v1", Some(&one)).await);
        assert_eq!(under(&store, "a").await, [format!("v1={}", one.id), format!("v2={}", two.id)]);
        assert!(assign(&store, "a", "v1", Some(&two)).await);
        assert_eq!(under(&store, "a").await, [format!("v1={}", two.id), format!("v2={}", two.id)]);
        assert_eq!(store.taggings(&owner(), None).await.unwrap().len(), 4);
        let given: Vec<GivenTag> = ["v1", "none"].map(|tag| tag.parse().unwrap()).into();
        store.remove_tags(&owner(), &name("a"), &given).await.unwrap();
        store.remove_tags(&"bob".parse().unwrap(), &name("minimal"), &given).await.unwrap();
        assert_eq!(under(&store, "a").await, [format!("v2={}", two.id)]);
        assert_eq!(under(&store, "minimal").await, ["v1", "v2"]);
    }

    async fn a_tag_goes_with_its_snapshot_and_not_the_other_way_round(database: Database) {
        let store = database.open().await;
        let snapshot = snapshot(&store, "a:v1").await;
        assert_eq!((&snapshot.name, snapshot.status), (&None, SnapshotStatus::Ready));
        store.remove_tags(&owner(), &name("a"), &["v1".parse().unwrap()]).await.unwrap();
        let still = store.get_snapshot(&owner(), &SnapshotRef::Id(snapshot.id.clone())).await.unwrap().unwrap();
        assert_eq!(still.status, SnapshotStatus::Ready);
        assert!(assign(&store, "a", "v1 v2", Some(&still)).await);
        let condemned = store.condemn_snapshot(&still, Needed::Matters).await.unwrap().unwrap();
        assert!(store.forget_snapshot(&condemned, None).await.unwrap());
        assert_eq!(store.taggings(&owner(), None).await.unwrap(), []);
    }

    async fn a_name_is_given_to_another_snapshot(database: Database) {
        let store = database.open().await;
        let (one, two) = (snapshot(&store, "a").await, snapshot(&store, "a:v2").await);
        assert!(assign(&store, "a", "default", Some(&two)).await);
        let default = store.get_snapshot(&owner(), &name("a")).await.unwrap().unwrap();
        assert_eq!(default.id, two.id);
        let before = store.get_snapshot(&owner(), &SnapshotRef::Id(one.id)).await.unwrap().unwrap();
        assert_eq!((before.name, before.status), (None, SnapshotStatus::Ready));
        assert!(assign(&store, "a", "default", Some(&two)).await, "it has it already");
    }

    async fn what_has_another_tag_is_not_replaced(database: Database) {
        let store = database.open().await;
        let first = snapshot(&store, "a:default").await;
        assert!(assign(&store, "a", "v1", Some(&first)).await);
        assert_eq!(made(&store, "a:default").await.1, None, "the first is a:v1 still");
        let (third, replaced) = made(&store, "a:v1").await;
        assert_eq!(replaced.map(|replaced| (replaced.id, replaced.status)), Some((first.id, SnapshotStatus::Deleting)));
        assert_eq!(under(&store, "a").await, [format!("v1={}", third.id)]);
    }

    async fn what_is_being_deleted_gets_no_tag(database: Database) {
        let store = database.open().await;
        let snapshot = snapshot(&store, "a").await;
        let condemned = store.condemn_snapshot(&snapshot, Needed::Matters).await.unwrap().unwrap();
        assert!(!assign(&store, "a", "v1", Some(&condemned)).await);
        assert_eq!(under(&store, "a").await, Vec::<String>::new());
    }
}
