//! When the time of sandboxes is over whose end is a point in time.

use jiff::Timestamp;
use model::{OwnerId, SandboxId};

use super::{Sandbox, Store, StoreError, failed};

/// How an end may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// Either way.
    Any,
    /// Only to a later time.
    Later,
}

impl Store {
    /// Moves the end of a sandbox's time. None where the caller has no such sandbox, or it is being or was removed: of this and the
    /// end of its time, which [`Change::unless_time_is_given`](super::Change::unless_time_is_given) waits for, one is first.
    pub async fn set_end(
        &self,
        owner: &OwnerId,
        id: &SandboxId,
        end: Timestamp,
        shift: Shift,
    ) -> Result<Option<Sandbox>, StoreError> {
        sqlx::query_as(
            "update sandboxes set ends_at = case when $1 = 1 and ends_at > $2 then ends_at else $3 end, \
             last_updated = $4 where id = $5 and owner_id = $6 and status not in ('stopping', 'error') \
             and (status <> 'stopped' or keeps_disk = 1) returning *",
        )
        .bind(i64::from(shift == Shift::Later))
        .bind(end.as_millisecond())
        .bind(end.as_millisecond())
        .bind(Timestamp::now().as_millisecond())
        .bind(id.as_str())
        .bind(owner.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("move the end of the sandbox's time"))
    }

    /// Every owner's sandboxes that run and whose time is over.
    pub async fn overdue(&self, now: Timestamp) -> Result<Vec<Sandbox>, StoreError> {
        sqlx::query_as("select * from sandboxes where ends_at <= $1 and status = 'running' order by ends_at limit 100")
            .bind(now.as_millisecond())
            .fetch_all(&self.pool)
            .await
            .map_err(failed("list sandboxes whose time is over"))
    }
}

#[cfg(test)]
mod tests {
    use model::Status;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Change, NewSandbox};

    testing::on_every_engine!(an_end_is_moved_and_what_is_past_it_is_found);

    async fn an_end_is_moved_and_what_is_past_it_is_found(database: Database) {
        let store = database.open().await;
        let at = |second| Timestamp::from_second(second).unwrap();
        let new = NewSandbox { ends_at: Some(at(100)), ..testing::sandbox("alice") };
        let pending = store.insert(&new).await.unwrap();
        assert_eq!(
            (pending.ends_at, pending.is_overdue(at(99)), pending.is_overdue(at(100))),
            (Some(at(100)), false, true)
        );
        assert_eq!(store.overdue(at(100)).await.unwrap(), [], "it does not run yet");
        let running = store.update(&pending, Change::running()).await.unwrap().unwrap();
        assert_eq!(store.overdue(at(99)).await.unwrap(), []);
        assert_eq!(store.overdue(at(100)).await.unwrap(), [running]);

        let moved =
            async |end, shift| store.set_end(&new.owner, &new.id, at(end), shift).await.unwrap().unwrap().ends_at;
        assert_eq!(moved(90, Shift::Later).await, Some(at(100)));
        assert_eq!(moved(110, Shift::Later).await, Some(at(110)));
        assert_eq!(moved(90, Shift::Any).await, Some(at(90)));
        let other = "bob".parse().unwrap();
        assert_eq!(store.set_end(&other, &new.id, at(1), Shift::Any).await.unwrap(), None);

        let seen = store.get(&new.owner, &new.id).await.unwrap().unwrap();
        let expiry = || Change::to(Status::Stopping).unless_time_is_given(&seen);
        moved(95, Shift::Any).await;
        assert_eq!(store.update(&seen, expiry()).await.unwrap(), None, "it was given time");
        moved(90, Shift::Any).await;
        assert!(store.update(&seen, expiry()).await.unwrap().is_some());
        assert_eq!(store.set_end(&new.owner, &new.id, at(500), Shift::Any).await.unwrap(), None, "it is too late");

        let never = store.insert(&testing::sandbox("alice")).await.unwrap();
        let set = store.set_end(&never.owner, &never.id, at(5), Shift::Later).await.unwrap().unwrap();
        assert_eq!((never.ends_at, set.ends_at), (None, Some(at(5))));
    }
}
