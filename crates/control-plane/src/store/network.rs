//! What sandboxes may reach.

use jiff::Timestamp;
use model::NetworkPolicy;

use super::events::append_action;
use super::{Action, EventKind, Sandbox, Store, StoreError, failed};

impl Store {
    /// Records that another policy holds for a sandbox. False where the sandbox is not there any more.
    pub async fn set_network(&self, sandbox: &Sandbox, policy: &NetworkPolicy) -> Result<bool, StoreError> {
        let recorded = async {
            let mut transaction = self.pool.begin().await?;
            let done = sqlx::query(
                "update sandboxes set network = $1, last_updated = $2 \
                 where id = $3 and owner_id = $4 and status not in ('stopped', 'error')",
            )
            .bind(self.recorded_policy(&sandbox.id, policy)?)
            .bind(Timestamp::now().as_millisecond())
            .bind(sandbox.id.as_str())
            .bind(sandbox.owner.as_str())
            .execute(&mut *transaction)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(None);
            }
            let last = append_action(&mut transaction, sandbox, Action::done(EventKind::NetworkChanged)).await?;
            transaction.commit().await?;
            Ok(Some(last))
        };
        let recorded = recorded.await.map_err(failed("record the sandbox's network policy"))?;
        Ok(recorded.map(|last| self.tell(last)).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(a_policy_is_kept_and_its_change_is_told);

    async fn a_policy_is_kept_and_its_change_is_told(database: Database) {
        let store = database.open().await;
        let new = testing::sandbox("alice");
        let sandbox = store.insert(&new).await.unwrap();
        assert_eq!(store.network_policy(&sandbox).unwrap(), NetworkPolicy::default());
        let policy = serde_json::from_str(r#"{"allow_out":["1.2.3.4"],"deny_out":["0.0.0.0/0"]}"#).unwrap();
        assert!(store.set_network(&sandbox, &policy).await.unwrap());
        let recorded = store.get(&sandbox.owner, &sandbox.id).await.unwrap().unwrap();
        assert_eq!(store.network_policy(&recorded).unwrap(), policy);
        let events = store.events_after(&sandbox.owner, 0, 10).await.unwrap();
        assert_eq!(events.last().unwrap().kind, EventKind::NetworkChanged);

        let other = Sandbox { owner: "bob".parse().unwrap(), ..sandbox };
        assert!(!store.set_network(&other, &policy).await.unwrap(), "another owner's is not there");
    }
}
