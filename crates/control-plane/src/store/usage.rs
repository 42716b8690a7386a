//! What owners have running and what it adds up to: samples of the records, in steps of time.

use jiff::Timestamp;
use model::OwnerId;
use sqlx::any::AnyRow;
use sqlx::{FromRow, Row};
use std::time::Duration;

use super::{Store, StoreError, failed};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Lengths of a step, and how long each is kept, in seconds.
const STEPS: [(i64, i64); 3] = [(10, 2 * HOUR), (5 * MINUTE, 2 * DAY), (HOUR, 31 * DAY)];

/// How long peaks are remembered.
const PEAKS: i64 = 30 * DAY;

/// What is running at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Running {
    /// Sandboxes.
    pub count: i64,
    /// Their virtual processors.
    pub vcpus: i64,
    /// Their memory.
    pub memory_mb: i64,
}

/// What was running in a step of time, at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When the step began.
    pub at: Timestamp,
    /// The most.
    pub running: Running,
}

/// What a day adds up to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Day {
    /// Its beginning (UTC).
    pub begins: Timestamp,
    /// Virtual processors times minutes.
    pub cpu_minutes: f64,
    /// MiB of memory times minutes.
    pub memory_mb_minutes: f64,
}

impl<'r> FromRow<'r, AnyRow> for Running {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let number = |column| row.try_get::<Option<i64>, _>(column).map(Option::unwrap_or_default);
        Ok(Self { count: number("running")?, vcpus: number("vcpus")?, memory_mb: number("memory_mb")? })
    }
}

fn time(row: &AnyRow, column: &str) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_millisecond(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

impl<'r> FromRow<'r, AnyRow> for Sample {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self { at: time(row, "at")?, running: Running::from_row(row)? })
    }
}

impl<'r> FromRow<'r, AnyRow> for Day {
    fn from_row(row: &'r AnyRow) -> Result<Self, sqlx::Error> {
        let minutes = |column| Ok::<_, sqlx::Error>(row.try_get::<i64, _>(column)? as f64 / 60_000.0);
        Ok(Self {
            begins: time(row, "day")?,
            cpu_minutes: minutes("vcpu_ms")?,
            memory_mb_minutes: minutes("memory_mb_ms")?,
        })
    }
}

/// The longest step that shows `range` in enough points.
pub fn step(range: Duration) -> Duration {
    let fits = |(step, _): &&(i64, i64)| range.as_secs() >= step.unsigned_abs() * 60;
    let (step, _) = STEPS.iter().rev().find(fits).unwrap_or(&STEPS[0]);
    Duration::from_secs(step.unsigned_abs())
}

impl Store {
    /// Looks at what every owner has running, and adds up that it has been so for `elapsed`.
    pub async fn sample(&self, now: Timestamp, elapsed: Duration) -> Result<(), StoreError> {
        let sampled = async {
            let owners = sqlx::query(
                "select owner_id, cast(count(*) as bigint) as running, cast(sum(vcpus) as bigint) as vcpus, \
                 cast(sum(memory_mb) as bigint) as memory_mb from sandboxes \
                 where status in ('running', 'pausing', 'snapshotting') group by owner_id",
            );
            let owners = owners.fetch_all(&self.pool).await?;
            let mut transaction = self.pool.begin().await?;
            for row in owners {
                let owner: String = row.try_get("owner_id")?;
                let running = Running::from_row(&row)?;
                for (step, _) in STEPS {
                    sqlx::query(
                        "insert into usage_samples (owner_id, step, at, running, vcpus, memory_mb) \
                         values ($1, $2, $3, $4, $5, $6) on conflict (owner_id, step, at) do update set \
                         running = case when excluded.running > usage_samples.running \
                         then excluded.running else usage_samples.running end, \
                         vcpus = case when excluded.vcpus > usage_samples.vcpus \
                         then excluded.vcpus else usage_samples.vcpus end, \
                         memory_mb = case when excluded.memory_mb > usage_samples.memory_mb \
                         then excluded.memory_mb else usage_samples.memory_mb end",
                    )
                    .bind(&owner)
                    .bind(step)
                    .bind(floor(now, step))
                    .bind(running.count)
                    .bind(running.vcpus)
                    .bind(running.memory_mb)
                    .execute(&mut *transaction)
                    .await?;
                }
                let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or_default();
                sqlx::query(
                    "insert into usage_days (owner_id, day, vcpu_ms, memory_mb_ms) values ($1, $2, $3, $4) \
                     on conflict (owner_id, day) do update set vcpu_ms = usage_days.vcpu_ms + excluded.vcpu_ms, \
                     memory_mb_ms = usage_days.memory_mb_ms + excluded.memory_mb_ms",
                )
                .bind(&owner)
                .bind(floor(now, DAY))
                .bind(running.vcpus * elapsed)
                .bind(running.memory_mb * elapsed)
                .execute(&mut *transaction)
                .await?;
            }
            for (step, kept) in STEPS {
                sqlx::query("delete from usage_samples where step = $1 and at < $2")
                    .bind(step)
                    .bind(now.as_millisecond() - kept * 1000)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await
        };
        sampled.await.map_err(failed("record the usage"))
    }

    /// What an owner has running now.
    pub async fn running_now(&self, owner: &OwnerId) -> Result<Running, StoreError> {
        sqlx::query_as(
            "select cast(count(*) as bigint) as running, cast(sum(vcpus) as bigint) as vcpus, \
             cast(sum(memory_mb) as bigint) as memory_mb from sandboxes \
             where owner_id = $1 and status in ('running', 'pausing', 'snapshotting')",
        )
        .bind(owner.as_str())
        .fetch_one(&self.pool)
        .await
        .map_err(failed("read the usage"))
    }

    /// The most that an owner had running at once in the last 30 days.
    pub async fn peaks(&self, owner: &OwnerId, now: Timestamp) -> Result<Running, StoreError> {
        sqlx::query_as(
            "select max(running) as running, max(vcpus) as vcpus, max(memory_mb) as memory_mb \
             from usage_samples where owner_id = $1 and at >= $2",
        )
        .bind(owner.as_str())
        .bind(now.as_millisecond() - PEAKS * 1000)
        .fetch_one(&self.pool)
        .await
        .map_err(failed("read the usage"))
    }

    /// An owner's samples in steps of that length, the oldest first. Where nothing ran there is none.
    pub async fn samples(&self, owner: &OwnerId, step: Duration, since: Timestamp) -> Result<Vec<Sample>, StoreError> {
        sqlx::query_as("select * from usage_samples where owner_id = $1 and step = $2 and at >= $3 order by at")
            .bind(owner.as_str())
            .bind(i64::try_from(step.as_secs()).unwrap_or_default())
            .bind(since.as_millisecond())
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the usage"))
    }

    /// An owner's days from one to another, both included.
    pub async fn days(&self, owner: &OwnerId, from: Timestamp, to: Timestamp) -> Result<Vec<Day>, StoreError> {
        sqlx::query_as("select * from usage_days where owner_id = $1 and day >= $2 and day <= $3 order by day")
            .bind(owner.as_str())
            .bind(from.as_millisecond())
            .bind(to.as_millisecond())
            .fetch_all(&self.pool)
            .await
            .map_err(failed("read the usage"))
    }
}

/// The beginning of a time's step, in milliseconds.
fn floor(time: Timestamp, step: i64) -> i64 {
    let step = step * 1000;
    time.as_millisecond().div_euclid(step) * step
}

#[cfg(test)]
mod tests {
    use model::Status;

    use super::*;
    use crate::store::Change;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(what_runs_is_sampled_and_added_up, old_samples_go);

    async fn run(store: &Store, owner: &str) -> crate::store::Sandbox {
        let new = testing::sandbox(owner);
        let pending = store.insert(&new).await.unwrap();
        store.update(&pending, Change::running()).await.unwrap().unwrap()
    }

    async fn what_runs_is_sampled_and_added_up(database: Database) {
        let store = database.open().await;
        let alice: OwnerId = "alice".parse().unwrap();
        let now: Timestamp = "2026-05-04T12:00:03Z".parse().unwrap();
        let later = Timestamp::from_second(now.as_second() + 5).unwrap();
        let one = run(&store, "alice").await;
        run(&store, "alice").await;
        run(&store, "bob").await;
        store.sample(now, Duration::from_secs(30)).await.unwrap();
        store.update(&one, Change::to(Status::Stopped)).await.unwrap().unwrap();
        store.sample(later, Duration::from_secs(30)).await.unwrap();
        let two = Running { count: 2, vcpus: 2, memory_mb: 1024 };
        assert_eq!(store.running_now(&alice).await.unwrap(), Running { count: 1, vcpus: 1, memory_mb: 512 });
        assert_eq!(store.peaks(&alice, later).await.unwrap(), two);
        for (step, at) in [(10, "2026-05-04T12:00:00Z"), (300, "2026-05-04T12:00:00Z"), (3600, "2026-05-04T12:00:00Z")]
        {
            let samples = store.samples(&alice, Duration::from_secs(step), Timestamp::UNIX_EPOCH).await.unwrap();
            assert_eq!(samples, [Sample { at: at.parse().unwrap(), running: two }], "the most in {step} s");
        }
        let day: Timestamp = "2026-05-04T00:00:00Z".parse().unwrap();
        let days = store.days(&alice, day, day).await.unwrap();
        assert_eq!(days, [Day { begins: day, cpu_minutes: 1.5, memory_mb_minutes: 768.0 }]);
        let nobody = store.peaks(&OwnerId::nobody(), later).await.unwrap();
        assert_eq!(nobody, Running::default());
    }

    async fn old_samples_go(database: Database) {
        let store = database.open().await;
        run(&store, "").await;
        let then: Timestamp = "2026-05-04T12:00:00Z".parse().unwrap();
        store.sample(then, Duration::ZERO).await.unwrap();
        let next_day = Timestamp::from_second(then.as_second() + DAY).unwrap();
        store.sample(next_day, Duration::ZERO).await.unwrap();
        for (step, left) in [(10, 1), (300, 2), (3600, 2)] {
            let samples =
                store.samples(&OwnerId::nobody(), Duration::from_secs(step), Timestamp::UNIX_EPOCH).await.unwrap();
            assert_eq!(samples.len(), left, "{step}");
        }
    }

    #[test]
    fn a_range_has_some_dozens_or_hundreds_of_steps() {
        for (range, expected) in [(300, 10), (3600, 10), (21_600, 300), (86_400, 300), (30 * 86_400, 3600)] {
            assert_eq!(step(Duration::from_secs(range)).as_secs(), expected, "{range}");
        }
    }
}
