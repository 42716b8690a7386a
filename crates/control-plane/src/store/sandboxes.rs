//! Queries about sandboxes.

use jiff::Timestamp;
use model::{AutoResume, HostId, Lifetime, OnExpiry, OwnerId, SandboxId, SnapshotId, Status};

use super::connections::Connection;
use super::events::{append_action, append_change};
use super::{Action, Hands, NewSandbox, Sandbox, Store, StoreError, TrafficTokenHash, Worker, failed};
use crate::request_host::RequestHost;

/// A new status and what changes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    status: Status,
    reason: String,
    host_ip: Option<String>,
    marks_start: bool,
    marks_activity: bool,
    /// None where that does not change.
    keeps_disk: Option<bool>,
    /// Only of a sandbox whose time ends then.
    ends_at: Option<Timestamp>,
    /// Whether nobody works any longer on what the status says is under way.
    lets_go: bool,
    action: Option<Action>,
}

impl Change {
    /// To `status`, without a reason.
    pub fn to(status: Status) -> Self {
        // One that is being started may yet be stopped again.
        let keeps_disk = Some(false).filter(|_| status != Status::Pending);
        Self {
            status,
            reason: String::new(),
            host_ip: None,
            marks_start: false,
            marks_activity: false,
            keeps_disk,
            ends_at: None,
            lets_go: false,
            action: None,
        }
    }

    /// It stays as it is, on its way, and nobody knows how that ended: whoever compares records with hosts finds out.
    pub fn let_go(seen: &Sandbox) -> Self {
        Self { lets_go: true, keeps_disk: None, ..Self::to(seen.status) }
    }

    /// To `status`, because of `reason`.
    pub fn because(status: Status, reason: impl Into<String>) -> Self {
        // It may quote a guest, and PostgreSQL keeps no NUL in a text.
        Self { reason: reason.into().replace('\0', "\u{fffd}"), ..Self::to(status) }
    }

    /// To running: started, and used just now.
    pub fn running() -> Self {
        Self { marks_activity: true, ..Self::found_running() }
    }

    /// To running, as its host has it: nobody used it just now.
    pub fn found_running() -> Self {
        Self { marks_start: true, ..Self::to(Status::Running) }
    }

    /// To stopped, because of `reason`, with a disk from which it can be started.
    pub fn stopped_with_disk(reason: impl Into<String>) -> Self {
        Self { keeps_disk: Some(true), ..Self::because(Status::Stopped, reason) }
    }

    /// Also the address by which its host reaches it.
    pub fn with_host_ip(self, host_ip: String) -> Self {
        Self { host_ip: Some(host_ip), ..self }
    }

    /// Only if nobody has moved the end of its time since it was seen.
    pub fn unless_time_is_given(self, seen: &Sandbox) -> Self {
        Self { ends_at: seen.ends_at, ..self }
    }

    /// Also what came to its end by it.
    pub fn with_action(self, action: Action) -> Self {
        Self { action: Some(action), ..self }
    }
}

impl Store {
    /// Records a sandbox as pending.
    pub async fn insert(&self, new: &NewSandbox) -> Result<Sandbox, StoreError> {
        let inserted = async {
            let sealed = self.sealed(new)?;
            let mut transaction = self.pool.begin().await?;
            let sandbox = insert(&mut transaction, new, sealed, self.worker).await?;
            transaction.commit().await?;
            Ok(sandbox)
        };
        inserted.await.map_err(failed("record the sandbox"))
    }

    /// One sandbox of an owner.
    pub async fn get(&self, owner: &OwnerId, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        sqlx::query_as("select * from sandboxes where id = $1 and owner_id = $2")
            .bind(id.as_str())
            .bind(owner.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read the sandbox's record"))
    }

    /// One sandbox, whoever's it is: for traffic, to which the id is what it needs to know.
    pub async fn get_of_anyone(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        sqlx::query_as("select * from sandboxes where id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("read the sandbox's record"))
    }

    /// Every owner's sandboxes that a host should have, or that are on their way there or away.
    pub async fn list_unfinished(&self, host: &HostId) -> Result<Vec<Sandbox>, StoreError> {
        sqlx::query_as(
            "select * from sandboxes where host_id = $1 and (status not in ('stopped', 'error') or keeps_disk = 1)",
        )
        .bind(host.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(failed("list the host's sandboxes"))
    }

    /// Whether any owner's record wants the sandbox to be on a host.
    pub async fn is_wanted(&self, id: &SandboxId) -> Result<bool, StoreError> {
        let found = sqlx::query(
            "select 1 from sandboxes where id = $1 and (status not in ('stopped', 'error') or keeps_disk = 1)",
        )
        .bind(id.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("read the sandbox's record"))?;
        Ok(found.is_some())
    }

    /// Applies `change` if nobody changed the status since `seen` was read, and what else it asks for holds; else `None`, and
    /// nothing has happened.
    pub async fn update(&self, seen: &Sandbox, change: Change) -> Result<Option<Sandbox>, StoreError> {
        let now = Timestamp::now().as_millisecond();
        let started = change.marks_start.then_some(now);
        let active = change.marks_activity.then_some(now);
        let updated = async {
            let mut transaction = self.pool.begin().await?;
            let updated: Option<Sandbox> = sqlx::query_as(
                "update sandboxes set status = $1, status_reason = $2, host_ip = coalesce($3, host_ip), \
                 started_at = coalesce(started_at, $4), last_active_at = coalesce($5, last_active_at), \
                 last_updated = $6, keeps_disk = coalesce($7, keeps_disk), worker = $8, generation = generation + 1 \
                 where id = $9 and owner_id = $10 and status = $11 and generation = $12 \
                 and coalesce($13, ends_at, 0) = coalesce(ends_at, 0) returning *",
            )
            .bind(change.status.as_str())
            .bind(change.reason)
            .bind(change.host_ip)
            .bind(started)
            .bind(active)
            .bind(now)
            .bind(change.keeps_disk.map(i64::from))
            .bind(if change.lets_go { Hands::NONE } else { self.worker.number() })
            .bind(seen.id.as_str())
            .bind(seen.owner.as_str())
            .bind(seen.status.as_str())
            .bind(seen.generation)
            .bind(change.ends_at.map(Timestamp::as_millisecond))
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(updated) = updated else { return Ok(None) };
            if updated.status == Status::Stopped {
                sqlx::query("delete from sandbox_metrics where sandbox_id = $1")
                    .bind(updated.id.as_str())
                    .execute(&mut *transaction)
                    .await?;
            }
            let last = append_change(&mut transaction, seen.status, &updated, change.action).await?;
            transaction.commit().await?;
            Ok(Some((updated, last)))
        };
        let updated = updated.await.map_err(failed("update the sandbox's status"))?;
        Ok(updated.map(|(updated, last)| {
            self.tell(last);
            updated
        }))
    }

    /// Records that a sandbox was used. Its generation stays: use is no change of state.
    pub async fn touch(&self, owner: &OwnerId, id: &SandboxId) -> Result<(), StoreError> {
        let now = Timestamp::now().as_millisecond();
        sqlx::query("update sandboxes set last_active_at = $1, last_updated = $2 where id = $3 and owner_id = $4")
            .bind(now)
            .bind(now)
            .bind(id.as_str())
            .bind(owner.as_str())
            .execute(&self.pool)
            .await
            .map_err(failed("record the sandbox's use"))?;
        Ok(())
    }

    /// Says that a pending sandbox is still being worked on; false when it is not pending any more.
    pub async fn still_pending(&self, seen: &Sandbox) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "update sandboxes set last_updated = $1 \
             where id = $2 and owner_id = $3 and status = 'pending' and generation = $4",
        )
        .bind(Timestamp::now().as_millisecond())
        .bind(seen.id.as_str())
        .bind(seen.owner.as_str())
        .bind(seen.generation)
        .execute(&self.pool)
        .await
        .map_err(failed("renew the sandbox's record"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes the record of a sandbox that was refused, if nobody changed it since `seen` was read, and records the
    /// action that came to nothing.
    pub async fn forget(&self, seen: &Sandbox, action: Action) -> Result<bool, StoreError> {
        let forgotten = async {
            let mut transaction = self.pool.begin().await?;
            let done = sqlx::query(
                "delete from sandboxes where id = $1 and owner_id = $2 and status = 'pending' and generation = $3",
            )
            .bind(seen.id.as_str())
            .bind(seen.owner.as_str())
            .bind(seen.generation)
            .execute(&mut *transaction)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(None);
            }
            let last = append_action(&mut transaction, seen, action).await?;
            transaction.commit().await?;
            Ok(Some(last))
        };
        let forgotten = forgotten.await.map_err(failed("remove the sandbox's record"))?;
        Ok(forgotten.map(|last| self.tell(last)).is_some())
    }
}

/// What of a sandbox is recorded sealed.
pub(super) struct Sealed {
    guest_access: Option<String>,
    network: String,
}

impl Store {
    pub(super) fn sealed(&self, new: &NewSandbox) -> Result<Sealed, sqlx::Error> {
        let guest_access = self.recorded_access(&new.id, &new.guest_access)?;
        Ok(Sealed { guest_access, network: self.recorded_policy(&new.id, &new.network)? })
    }
}

/// Records a sandbox as pending, with whatever else the transaction does.
pub(super) async fn insert(
    connection: &mut Connection,
    new: &NewSandbox,
    sealed: Sealed,
    worker: Worker,
) -> Result<Sandbox, sqlx::Error> {
    let now = Timestamp::now().as_millisecond();
    let lifetime = match new.lifetime {
        Lifetime::Never => "never",
        Lifetime::Idle(_) => "idle",
    };
    let metadata = new.metadata.pairs();
    let (on_expiry, stops_on_expiry) = match new.on_expiry {
        OnExpiry::Stop => (OnExpiry::Pause, 1),
        other => (other, 0),
    };
    let sandbox = sqlx::query_as(
        "insert into sandboxes (id, owner_id, host_id, template, status, vcpus, memory_mb, disk_mb, lifetime, \
         timeout_sec, on_expiry, metadata, created_at, last_updated, snapshot_id, auto_resume, \
         traffic_token_hash, network, worker, guest_access, env, ends_at, request_host, https_ports, stops_on_expiry) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
         $23, $24, $25) returning *",
    )
    .bind(new.id.as_str())
    .bind(new.owner.as_str())
    .bind(new.host.as_str())
    .bind(new.template.as_str())
    .bind(Status::Pending.as_str())
    .bind(i64::from(new.shape.vcpus.get()))
    .bind(i64::from(new.shape.memory.get()))
    .bind(i64::from(new.shape.disk.get()))
    .bind(lifetime)
    .bind(i64::from(new.lifetime.idle_seconds()))
    .bind(on_expiry.as_str())
    .bind(serde_json::to_string(metadata).expect("texts are JSON"))
    .bind(now)
    .bind(now)
    .bind(new.snapshot.as_ref().map(SnapshotId::as_str))
    .bind(i64::from(new.auto_resume == AutoResume::On))
    .bind(new.traffic_token.as_ref().map(TrafficTokenHash::as_str))
    .bind(sealed.network)
    .bind(worker.number())
    .bind(sealed.guest_access)
    .bind(serde_json::to_string(&new.env).expect("texts are JSON"))
    .bind(new.ends_at.map(Timestamp::as_millisecond))
    .bind(new.request_host.as_ref().map(RequestHost::as_str))
    .bind(new.https_ports.to_string())
    .bind(stops_on_expiry)
    .fetch_one(&mut *connection)
    .await?;
    for (name, value) in metadata {
        sqlx::query("insert into sandbox_metadata (sandbox_id, name, value) values ($1, $2, $3)")
            .bind(new.id.as_str())
            .bind(name)
            .bind(value)
            .execute(&mut *connection)
            .await?;
    }
    Ok(sandbox)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::OnExpiry;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{EventKind, Filter};

    testing::on_every_engine!(
        what_was_recorded_is_read_back,
        another_owners_sandbox_is_not_there,
        of_two_changes_decided_on_the_same_record_one_wins,
        a_status_that_came_back_is_still_another_generation,
        use_changes_the_time_and_not_the_generation,
        the_newest_is_first_and_the_finished_are_not_unfinished,
        a_stopped_sandbox_with_a_disk_is_wanted_until_it_is_deleted,
        the_database_itself_refuses_an_unknown_status_and_an_unknown_host,
    );

    fn new(owner: &str) -> NewSandbox {
        NewSandbox { lifetime: Lifetime::Idle(Duration::from_secs(300)), ..testing::sandbox(owner) }
    }

    fn refused() -> Action {
        Action::failed(EventKind::Create, "the host has no room".to_owned())
    }

    async fn what_was_recorded_is_read_back(database: Database) {
        let store = database.open().await;
        for lifetime in [Lifetime::Never, Lifetime::Idle(Duration::from_secs(7))] {
            let (on_expiry, auto_resume) = (OnExpiry::Pause, AutoResume::On);
            let new = NewSandbox { lifetime, on_expiry, auto_resume, ..new("alice") };
            let inserted = store.insert(&new).await.unwrap();
            assert_eq!((inserted.status, inserted.lifetime), (Status::Pending, lifetime));
            assert_eq!((inserted.on_expiry, inserted.auto_resume, &inserted.snapshot), (on_expiry, auto_resume, &None));
            assert_eq!(store.get(&new.owner, &new.id).await.unwrap(), Some(inserted));
        }
    }

    async fn another_owners_sandbox_is_not_there(database: Database) {
        let store = database.open().await;
        let mine = store.insert(&new("alice")).await.unwrap();
        let other: OwnerId = "bob".parse().unwrap();
        assert_eq!(store.get(&other, &mine.id).await.unwrap(), None);
        assert_eq!(store.list(&other, &Filter::default()).await.unwrap().sandboxes, []);
        let forged = Sandbox { owner: other.clone(), ..mine.clone() };
        assert_eq!(store.update(&forged, Change::to(Status::Stopping)).await.unwrap(), None);
        assert!(!store.forget(&forged, refused()).await.unwrap());
        store.touch(&other, &mine.id).await.unwrap();
        assert_eq!(store.get(&mine.owner, &mine.id).await.unwrap(), Some(mine));
    }

    async fn of_two_changes_decided_on_the_same_record_one_wins(database: Database) {
        let store = database.open().await;
        let pending = store.insert(&new("")).await.unwrap();
        let (one, two) = tokio::join!(
            store.update(&pending, Change::running()),
            store.update(&pending, Change::because(Status::Error, "it did not start")),
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.is_some() != two.is_some());
        let winner = one.or(two).unwrap();
        assert_eq!(winner.generation, pending.generation + 1);
        assert_eq!(store.get(&pending.owner, &pending.id).await.unwrap(), Some(winner));
        assert!(!store.forget(&pending, refused()).await.unwrap(), "it is not pending any more");
    }

    async fn a_status_that_came_back_is_still_another_generation(database: Database) {
        let store = database.open().await;
        let first = store.insert(&new("")).await.unwrap();
        let second = store.update(&first, Change::because(Status::Pending, "a\0b")).await.unwrap().unwrap();
        assert_eq!(store.update(&first, Change::running()).await.unwrap(), None);
        let running = store.update(&second, Change::running().with_host_ip("10.11.0.1".into())).await.unwrap().unwrap();
        assert_eq!(running.host_ip, "10.11.0.1");
        assert!(running.started_at.is_some() && running.started_at == running.last_active_at);
    }

    async fn use_changes_the_time_and_not_the_generation(database: Database) {
        let store = database.open().await;
        let pending = store.insert(&new("")).await.unwrap();
        store.touch(&pending.owner, &pending.id).await.unwrap();
        let touched = store.get(&pending.owner, &pending.id).await.unwrap().unwrap();
        assert!(touched.last_active_at.is_some());
        assert_eq!(touched.generation, pending.generation);
    }

    async fn the_newest_is_first_and_the_finished_are_not_unfinished(database: Database) {
        let store = database.open().await;
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(store.insert(&new("")).await.unwrap());
        }
        store.update(&all[1], Change::to(Status::Stopped)).await.unwrap().unwrap();
        let listed = store.list(&OwnerId::nobody(), &Filter::default()).await.unwrap().sandboxes;
        assert!(listed.is_sorted_by(|one, next| one.created_at >= next.created_at));
        assert_eq!(listed.len(), 3);
        assert!(store.is_wanted(&all[0].id).await.unwrap() && !store.is_wanted(&all[1].id).await.unwrap());
        assert!(!store.is_wanted(&SandboxId::random()).await.unwrap());
        let unfinished = store.list_unfinished(&"default".parse().unwrap()).await.unwrap();
        assert_eq!(unfinished.len(), 2);
        assert!(unfinished.iter().all(|sandbox| sandbox.id != all[1].id));
    }

    async fn a_stopped_sandbox_with_a_disk_is_wanted_until_it_is_deleted(database: Database) {
        let store = database.open().await;
        let pending = store.insert(&new("")).await.unwrap();
        let stopped = store.update(&pending, Change::stopped_with_disk("host_restarted")).await.unwrap().unwrap();
        assert!(stopped.keeps_disk && store.is_wanted(&stopped.id).await.unwrap());
        assert_eq!(store.list_unfinished(&stopped.host).await.unwrap(), std::slice::from_ref(&stopped));
        let starting = store.update(&stopped, Change::to(Status::Pending)).await.unwrap().unwrap();
        assert!(starting.keeps_disk, "its start may fail");
        let running = store.update(&starting, Change::running()).await.unwrap().unwrap();
        assert!(!running.keeps_disk);
        let stopped = store.update(&running, Change::stopped_with_disk("host_restarted")).await.unwrap().unwrap();
        let stopping = store.update(&stopped, Change::to(Status::Stopping)).await.unwrap().unwrap();
        let deleted = store.update(&stopping, Change::to(Status::Stopped)).await.unwrap().unwrap();
        assert!(!deleted.keeps_disk && !store.is_wanted(&deleted.id).await.unwrap());
    }

    async fn the_database_itself_refuses_an_unknown_status_and_an_unknown_host(database: Database) {
        let store = database.open().await;
        store.insert(&new("")).await.unwrap();
        let refused = sqlx::query("update sandboxes set status = 'starting'").execute(&store.pool).await;
        assert!(refused.is_err());
        let elsewhere = NewSandbox { host: "elsewhere".parse().unwrap(), ..new("") };
        assert!(store.insert(&elsewhere).await.is_err());
    }
}
