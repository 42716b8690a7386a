//! Records of sandboxes that were never made, for measuring.

use jiff::Timestamp;
use model::{HostId, OwnerId, SandboxId};

use super::{Store, StoreError, failed};

impl Store {
    /// Whether nobody has used the database for anything.
    pub async fn is_unused(&self) -> Result<bool, StoreError> {
        let used = sqlx::query("select 1 from sandboxes union all select 1 from api_keys limit 1");
        Ok(used.fetch_optional(&self.pool).await.map_err(failed("look for records"))?.is_none())
    }

    /// The engine's own words for what it is.
    pub async fn engine(&self) -> Result<String, StoreError> {
        let version = match self.pool.is_sqlite() {
            true => "select 'SQLite ' || sqlite_version()",
            false => "select split_part(version(), ' on ', 1)",
        };
        sqlx::query_scalar(version).fetch_one(&self.pool).await.map_err(failed("ask the database what it is"))
    }

    /// Records a host and as many running sandboxes on it.
    pub async fn insert_simulated(
        &self,
        host: &HostId,
        owner: &OwnerId,
        sandboxes: usize,
    ) -> Result<Vec<SandboxId>, StoreError> {
        let step = "record simulated sandboxes";
        let now = Timestamp::now().as_millisecond();
        let mut transaction = self.pool.begin().await.map_err(failed(step))?;
        sqlx::query("insert into hosts (id, created_at) values ($1, $2)")
            .bind(host.as_str())
            .bind(now)
            .execute(&mut *transaction)
            .await
            .map_err(failed(step))?;
        let ids: Vec<_> = std::iter::repeat_with(SandboxId::random).take(sandboxes).collect();
        for id in &ids {
            sqlx::query(
                "insert into sandboxes (id, owner_id, host_id, status, lifetime, timeout_sec, host_ip, created_at, \
                 started_at, last_active_at, last_updated) \
                 values ($1, $2, $3, 'running', 'never', 0, '10.11.0.1', $4, $4, $4, $4)",
            )
            .bind(id.as_str())
            .bind(owner.as_str())
            .bind(host.as_str())
            .bind(now)
            .execute(&mut *transaction)
            .await
            .map_err(failed(step))?;
        }
        transaction.commit().await.map_err(failed(step))?;
        Ok(ids)
    }

    /// Lets the engine's planner know what is there; by itself it looks after some minutes.
    pub async fn analyze(&self) -> Result<(), StoreError> {
        sqlx::query("analyze").execute(&self.pool).await.map_err(failed("analyze the tables"))?;
        Ok(())
    }

    /// Leaves the database as it is after its first opening.
    pub async fn remove_everything(&self) -> Result<(), StoreError> {
        for statement in [
            "delete from sandboxes",
            "delete from hosts where id <> 'default'",
            "delete from api_keys",
            "delete from token_key",
        ] {
            sqlx::query(statement).execute(&self.pool).await.map_err(failed("remove simulated records"))?;
        }
        Ok(())
    }
}
