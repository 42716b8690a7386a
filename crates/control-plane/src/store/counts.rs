//! How many sandboxes there are, whoever's they are.

use std::collections::BTreeMap;

use model::Status;

use super::{Store, StoreError, failed};

impl Store {
    /// How many sandboxes have each status.
    pub async fn count_by_status(&self) -> Result<BTreeMap<Status, u64>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select status, cast(count(*) as bigint) from sandboxes group by status")
                .fetch_all(&self.pool)
                .await
                .map_err(failed("count sandboxes"))?;
        let known = |(status, count): (String, i64)| Some((status.parse().ok()?, u64::try_from(count).ok()?));
        Ok(rows.into_iter().filter_map(known).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(every_owners_sandboxes_are_counted);

    async fn every_owners_sandboxes_are_counted(database: Database) {
        let store = database.open().await;
        assert!(store.count_by_status().await.unwrap().is_empty());
        for (owner, is_running) in [("ann", true), ("bob", true), ("bob", false)] {
            let new = testing::sandbox(owner);
            let pending = store.insert(&new).await.unwrap();
            if is_running {
                store.update(&pending, Change::running()).await.unwrap().unwrap();
            }
        }
        let expected = BTreeMap::from([(Status::Pending, 1), (Status::Running, 2)]);
        assert_eq!(store.count_by_status().await.unwrap(), expected);
    }
}
