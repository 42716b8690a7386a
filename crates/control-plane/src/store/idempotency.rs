//! Keys that clients give to requests which they may have to repeat. A key is one owner's, and of one kind of request; it
//! is kept for a day.

use std::time::Duration;

use jiff::Timestamp;
use model::{OwnerId, SandboxId};
use sqlx::Row;

use super::connections::Connection;
use super::{NewSandbox, Sandbox, Store, StoreError, failed};

/// How long a key is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The kind of request that makes a sandbox.
const CREATE: &str = "create";

/// A request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The key.
    pub name: String,
    /// What tells one request from another: a digest.
    pub request: String,
}

/// What became of a sandbox that was to be recorded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is recorded now.
    New(Box<Sandbox>),
    /// The same request has made this one.
    Before(SandboxId),
    /// The key was given to another request.
    Different,
}

/// What is known of a command that is to run once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It has not been run: whoever hears this runs it.
    New,
    /// Somebody runs it, and last said so then.
    Running {
        /// When that was.
        renewed_at: Timestamp,
    },
    /// This came of it.
    Answered(String),
    /// The key was given to another request.
    Different,
}

impl Store {
    /// Records a sandbox as pending, unless the same request did so before.
    pub async fn insert_once(&self, new: &NewSandbox, once: &Once) -> Result<Inserted, StoreError> {
        let inserted = async {
            let sealed = self.sealed(new)?;
            let mut transaction = self.pool.begin().await?;
            let sandbox = super::sandboxes::insert(&mut transaction, new, sealed, self.worker).await?;
            if take(&mut transaction, &new.owner, CREATE, once, &new.id).await? {
                transaction.commit().await?;
                return Ok(Some(Inserted::New(Box::new(sandbox))));
            }
            transaction.rollback().await?;
            let before = sqlx::query(
                "select request, sandbox_id from idempotency_keys where owner_id = $1 and scope = $2 and name = $3",
            )
            .bind(new.owner.as_str())
            .bind(CREATE)
            .bind(&once.name)
            .fetch_optional(&self.pool)
            .await?;
            let Some(before) = before else { return Ok(None) };
            if before.try_get::<String, _>("request")? != once.request {
                return Ok(Some(Inserted::Different));
            }
            super::record::parse(&before, "sandbox_id").map(|id| Some(Inserted::Before(id)))
        };
        match inserted.await.map_err(failed("record the sandbox"))? {
            Some(inserted) => Ok(inserted),
            // The first request was refused just now, and its key went with its record.
            None => Box::pin(self.insert_once(new, once)).await,
        }
    }

    /// Claims a command in a sandbox for whoever asks first.
    pub async fn claim(&self, sandbox: &Sandbox, once: &Once) -> Result<Claim, StoreError> {
        let claimed = async {
            let mut transaction = self.pool.begin().await?;
            let is_new = take(&mut transaction, &sandbox.owner, sandbox.id.as_str(), once, &sandbox.id).await?;
            transaction.commit().await?;
            if is_new {
                return Ok(Some(Claim::New));
            }
            let before = sqlx::query(
                "select request, answer, renewed_at from idempotency_keys \
                 where owner_id = $1 and scope = $2 and name = $3",
            )
            .bind(sandbox.owner.as_str())
            .bind(sandbox.id.as_str())
            .bind(&once.name)
            .fetch_optional(&self.pool)
            .await?;
            let Some(before) = before else { return Ok(None) };
            if before.try_get::<String, _>("request")? != once.request {
                return Ok(Some(Claim::Different));
            }
            Ok(Some(match before.try_get::<Option<String>, _>("answer")? {
                Some(answer) => Claim::Answered(answer),
                None => {
                    let renewed_at = super::record::time(&before, "renewed_at")?.unwrap_or_default();
                    Claim::Running { renewed_at }
                }
            }))
        };
        match claimed.await.map_err(failed("claim the command"))? {
            Some(claim) => Ok(claim),
            // It was not begun after all, and released just now.
            None => Box::pin(self.claim(sandbox, once)).await,
        }
    }

    /// Says that a command is still being run.
    pub async fn renew_claim(&self, sandbox: &Sandbox, once: &Once) -> Result<(), StoreError> {
        self.change_claim("update idempotency_keys set renewed_at = $1", sandbox, once).await
    }

    /// Gives up a command that was not begun: the same key may begin it again.
    pub async fn release_claim(&self, sandbox: &Sandbox, once: &Once) -> Result<(), StoreError> {
        self.change_claim("delete from idempotency_keys", sandbox, once).await
    }

    async fn change_claim(&self, what: &str, sandbox: &Sandbox, once: &Once) -> Result<(), StoreError> {
        // The first parameter is the time, which a deletion only compares.
        let text =
            format!("{what} where renewed_at <= $1 and owner_id = $2 and scope = $3 and name = $4 and answer is null");
        sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(Timestamp::now().as_millisecond())
            .bind(sandbox.owner.as_str())
            .bind(sandbox.id.as_str())
            .bind(&once.name)
            .execute(&self.pool)
            .await
            .map_err(failed("keep the command's key"))?;
        Ok(())
    }

    /// Keeps what came of a command.
    pub async fn keep_answer(&self, sandbox: &Sandbox, once: &Once, answer: &str) -> Result<(), StoreError> {
        sqlx::query("update idempotency_keys set answer = $1 where owner_id = $2 and scope = $3 and name = $4")
            .bind(answer)
            .bind(sandbox.owner.as_str())
            .bind(sandbox.id.as_str())
            .bind(&once.name)
            .execute(&self.pool)
            .await
            .map_err(failed("keep the command's answer"))?;
        Ok(())
    }
}

/// Takes a key, unless it is taken. Keys that were kept long enough go first.
async fn take(
    connection: &mut Connection,
    owner: &OwnerId,
    scope: &str,
    once: &Once,
    sandbox: &SandboxId,
) -> Result<bool, sqlx::Error> {
    let now = Timestamp::now().as_millisecond();
    let kept = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
    sqlx::query("delete from idempotency_keys where created_at < $1")
        .bind(now - kept)
        .execute(&mut *connection)
        .await?;
    let taken = sqlx::query(
        "insert into idempotency_keys (owner_id, scope, name, request, sandbox_id, created_at, renewed_at) \
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(owner.as_str())
    .bind(scope)
    .bind(&once.name)
    .bind(&once.request)
    .bind(sandbox.as_str())
    .bind(now)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(taken.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Action, EventKind};

    testing::on_every_engine!(
        of_many_equal_requests_one_makes_a_sandbox,
        a_key_is_its_owner_s_and_goes_with_a_refused_sandbox,
        a_command_is_claimed_once_and_its_answer_kept,
        keys_are_kept_for_a_day,
    );

    fn once(name: &str, request: &str) -> Once {
        Once { name: name.to_owned(), request: request.to_owned() }
    }

    async fn of_many_equal_requests_one_makes_a_sandbox(database: Database) {
        let store = database.open().await;
        let key = once("k", "r");
        let news: Vec<_> = (0..6).map(|_| testing::sandbox("alice")).collect();
        let inserted = futures::future::join_all(news.iter().map(|new| store.insert_once(new, &key))).await;
        let inserted: Vec<_> = inserted.into_iter().map(Result::unwrap).collect();
        let made = inserted.iter().filter_map(|inserted| match inserted {
            Inserted::New(sandbox) => Some(sandbox.id.clone()),
            _ => None,
        });
        let made: Vec<_> = made.collect();
        assert_eq!(made.len(), 1);
        assert_eq!(inserted.iter().filter(|other| **other == Inserted::Before(made[0].clone())).count(), 5);
        let unfinished = store.list_unfinished(&"default".parse().unwrap()).await.unwrap();
        assert_eq!(unfinished.len(), 1, "the others left no record");
        let other = store.insert_once(&testing::sandbox("alice"), &once("k", "another")).await.unwrap();
        assert_eq!(other, Inserted::Different);
    }

    async fn a_key_is_its_owner_s_and_goes_with_a_refused_sandbox(database: Database) {
        let store = database.open().await;
        let key = once("k", "r");
        let Inserted::New(mine) = store.insert_once(&testing::sandbox("alice"), &key).await.unwrap() else { panic!() };
        let others = store.insert_once(&testing::sandbox("bob"), &key).await.unwrap();
        assert!(matches!(others, Inserted::New(_)));
        let refused = Action::failed(EventKind::Create, "no room".to_owned());
        assert!(store.forget(&mine, refused).await.unwrap());
        let again = store.insert_once(&testing::sandbox("alice"), &key).await.unwrap();
        assert!(matches!(again, Inserted::New(_)), "a refusal can be tried again");
    }

    async fn a_command_is_claimed_once_and_its_answer_kept(database: Database) {
        let store = database.open().await;
        let sandbox = store.insert(&testing::sandbox("alice")).await.unwrap();
        let key = once("k", "r");
        let claims = futures::future::join_all((0..6).map(|_| store.claim(&sandbox, &key))).await;
        let new = claims.iter().filter(|claim| matches!(claim, Ok(Claim::New))).count();
        let running = claims.iter().filter(|claim| matches!(claim, Ok(Claim::Running { .. }))).count();
        assert_eq!((new, running), (1, 5), "{claims:?}");
        assert_eq!(store.claim(&sandbox, &once("k", "other")).await.unwrap(), Claim::Different);
        store.renew_claim(&sandbox, &key).await.unwrap();
        store.release_claim(&sandbox, &key).await.unwrap();
        assert_eq!(store.claim(&sandbox, &key).await.unwrap(), Claim::New);
        store.keep_answer(&sandbox, &key, "done").await.unwrap();
        store.release_claim(&sandbox, &key).await.unwrap();
        assert_eq!(store.claim(&sandbox, &key).await.unwrap(), Claim::Answered("done".to_owned()), "it was begun");
        let elsewhere = store.insert(&testing::sandbox("alice")).await.unwrap();
        assert_eq!(store.claim(&elsewhere, &key).await.unwrap(), Claim::New);
    }

    async fn keys_are_kept_for_a_day(database: Database) {
        let store = database.open().await;
        let sandbox = store.insert(&testing::sandbox("alice")).await.unwrap();
        let key = once("k", "r");
        assert_eq!(store.claim(&sandbox, &key).await.unwrap(), Claim::New);
        let day = i64::try_from(KEPT.as_millis()).unwrap();
        sqlx::query("update idempotency_keys set created_at = created_at - $1")
            .bind(day)
            .execute(&store.pool)
            .await
            .unwrap();
        // A moment later, whatever the clock's grain.
        sqlx::query("update idempotency_keys set created_at = created_at - 1").execute(&store.pool).await.unwrap();
        assert_eq!(store.claim(&sandbox, &key).await.unwrap(), Claim::New);
    }
}
