//! What sandboxes used until they were paused, so that it outlives their hosts. Bounded: each series has its length.

use std::time::Duration;

use jiff::Timestamp;
use model::SandboxId;

use super::{Store, StoreError, failed};

/// A series of figures that is kept of each sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// A point each second, of the last ten minutes.
    Seconds,
    /// A point each half minute, of the last two hours.
    HalfMinutes,
    /// A point each five minutes, of the last day.
    FiveMinutes,
}

impl Series {
    /// How far it reaches back, as hosts and the store write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "10m",
            Self::HalfMinutes => "2h",
            Self::FiveMinutes => "24h",
        }
    }

    fn length(self) -> Duration {
        match self {
            Self::Seconds => Duration::from_secs(600),
            Self::HalfMinutes => Duration::from_secs(2 * 3600),
            Self::FiveMinutes => Duration::from_secs(24 * 3600),
        }
    }
}

/// What a sandbox used at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// When, in seconds since 1970.
    pub at: i64,
    /// Of all its processors together, in percent.
    pub cpu_pct: f64,
    /// Bytes of memory that its guest has in use.
    pub memory_bytes: i64,
    /// Bytes of the host's disk that its writes take.
    pub disk_bytes: i64,
}

/// The same as it is kept: there are many of them.
type Row = (i64, f64, i64, i64);

impl Store {
    /// What is kept of a sandbox, oldest first.
    pub async fn metrics(&self, id: &SandboxId, series: Series) -> Result<Vec<Use>, StoreError> {
        let points: Option<String> =
            sqlx::query_scalar("select points from sandbox_metrics where sandbox_id = $1 and series = $2")
                .bind(id.as_str())
                .bind(series.as_str())
                .fetch_optional(&self.pool)
                .await
                .map_err(failed("read the sandbox's metrics"))?;
        let points = points.as_deref().map_or(Ok(Vec::new()), serde_json::from_str);
        let points: Vec<Row> =
            points.map_err(|error| sqlx::Error::Decode(error.into())).map_err(failed("read the sandbox's metrics"))?;
        let used = |(at, cpu_pct, memory_bytes, disk_bytes)| Use { at, cpu_pct, memory_bytes, disk_bytes };
        Ok(points.into_iter().map(used).collect())
    }

    /// Keeps more of a sandbox beside what is kept already, as far back as each series reaches. Of one that is stopped
    /// nothing is kept.
    pub async fn keep_metrics(
        &self,
        id: &SandboxId,
        more: impl IntoIterator<Item = (Series, Vec<Use>)>,
    ) -> Result<(), StoreError> {
        let mut grown = Vec::new();
        for (series, more) in more {
            let mut points = self.metrics(id, series).await?;
            points.extend(more);
            grown.push((series, text(series, &points)));
        }
        let keep = async {
            let mut transaction = self.pool.begin().await?;
            for (series, points) in grown {
                sqlx::query(
                    "insert into sandbox_metrics (sandbox_id, series, points) \
                     select id, $1, $2 from sandboxes where id = $3 and status <> 'stopped' \
                     on conflict (sandbox_id, series) do update set points = excluded.points",
                )
                .bind(series.as_str())
                .bind(points)
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await?;
            }
            transaction.commit().await
        };
        keep.await.map_err(failed("keep the sandbox's metrics"))
    }
}

/// The points that its series reaches back to, as they are kept.
fn text(series: Series, points: &[Use]) -> String {
    let length = i64::try_from(series.length().as_secs()).unwrap_or(i64::MAX);
    let oldest = Timestamp::now().as_second() - length;
    let points: Vec<Row> = points
        .iter()
        .filter(|point| point.at >= oldest)
        .map(|point| (point.at, point.cpu_pct, point.memory_bytes, point.disk_bytes))
        .collect();
    serde_json::to_string(&points).expect("numbers are JSON")
}

#[cfg(test)]
mod tests {
    use model::{Lifetime, OnExpiry, Status};

    use super::*;
    use crate::store::{Change, NewSandbox, Sandbox, testing};

    testing::on_every_engine!(
        what_is_kept_grows_as_far_back_as_its_series_reaches,
        what_is_kept_of_a_sandbox_goes_with_it
    );

    async fn running(store: &Store) -> Sandbox {
        let new = NewSandbox {
            id: SandboxId::random(),
            owner: "".parse().unwrap(),
            host: "default".parse().unwrap(),
            template: "minimal".parse().unwrap(),
            shape: Default::default(),
            lifetime: Lifetime::Never,
            on_expiry: OnExpiry::Destroy,
            auto_resume: model::AutoResume::Off,
            traffic_token: None,
            snapshot: None,
            metadata: Default::default(),
            network: Default::default(),
            request_host: None,
            https_ports: Default::default(),
            guest_access: Default::default(),
            env: Default::default(),
            ends_at: None,
        };
        let pending = store.insert(&new).await.unwrap();
        store.update(&pending, Change::running()).await.unwrap().unwrap()
    }

    fn point(at: i64) -> Use {
        Use { at, cpu_pct: 12.5, memory_bytes: 1 << 40, disk_bytes: 3 }
    }

    async fn what_is_kept_grows_as_far_back_as_its_series_reaches(database: testing::Database) {
        let store = database.open().await;
        let id = running(&store).await.id;
        assert_eq!(store.metrics(&id, Series::Seconds).await.unwrap(), []);
        let now = Timestamp::now().as_second();
        store.keep_metrics(&id, [(Series::Seconds, vec![point(now - 3000), point(now - 60)])]).await.unwrap();
        store.keep_metrics(&id, [(Series::Seconds, vec![point(now)])]).await.unwrap();
        store.keep_metrics(&id, [(Series::HalfMinutes, vec![point(now - 3000)])]).await.unwrap();
        assert_eq!(store.metrics(&id, Series::Seconds).await.unwrap(), [point(now - 60), point(now)]);
        assert_eq!(store.metrics(&id, Series::HalfMinutes).await.unwrap(), [point(now - 3000)]);
        assert_eq!(store.metrics(&id, Series::FiveMinutes).await.unwrap(), []);
    }

    async fn what_is_kept_of_a_sandbox_goes_with_it(database: testing::Database) {
        let store = database.open().await;
        let sandbox = running(&store).await;
        let now = Timestamp::now().as_second();
        store.keep_metrics(&sandbox.id, [(Series::Seconds, vec![point(now)])]).await.unwrap();
        let stopping = store.update(&sandbox, Change::to(Status::Stopping)).await.unwrap().unwrap();
        assert_eq!(store.metrics(&sandbox.id, Series::Seconds).await.unwrap().len(), 1);
        store.update(&stopping, Change::to(Status::Stopped)).await.unwrap().unwrap();
        assert_eq!(store.metrics(&sandbox.id, Series::Seconds).await.unwrap(), []);
        store.keep_metrics(&sandbox.id, [(Series::Seconds, vec![point(now)])]).await.unwrap();
        assert_eq!(store.metrics(&sandbox.id, Series::Seconds).await.unwrap(), [], "too late");
    }
}
