//! That tokens are sealed, all with one key: which that is stands in the records, the key itself does not.

use model::SandboxId;
use sqlx::Row;

use super::guest_access::OPEN;
use super::kept_token::{KeptToken, SEALED, UnsealError};
use super::{AccessToken, GuestAccess, Sandbox, SealedSecret, Store, StoreError, failed};
use crate::token_key::TokenKey;

/// Why the records cannot be used with a key.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// Tokens are sealed with another one.
    #[error(
        "tokens in this database are sealed with the token key {needed}, those of {sandboxes} sandboxes that are there \
         among them, and this server has the key {ours}: give it the file that was in the data directory, or that the other \
         control planes have (--token-key)"
    )]
    OtherKey {
        /// How many cannot be told.
        sandboxes: i64,
        /// The key that they need.
        needed: String,
        /// The key that there is.
        ours: String,
    },
    /// The database does not do as asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// The same, for tokens that are sealed with this key. What an earlier version left as it was is sealed, and nothing of
    /// that is left in an embedded database's files.
    pub async fn sealing_with(self, key: TokenKey) -> Result<Self, SealingError> {
        self.agree_on(&key).await?;
        let sealed = self.seal_clear_tokens(&key).await.map_err(failed("seal the sandboxes' tokens"))?;
        if sealed > 0 {
            tracing::info!(sandboxes = sealed, "the tokens of sandboxes are sealed from now on");
            self.forget_what_was_overwritten().await.map_err(failed("remove what the tokens' seals replace"))?;
        }
        Ok(Self { token_key: Some(key), ..self })
    }

    /// Makes the key that of the records, unless they have another one that is needed.
    async fn agree_on(&self, key: &TokenKey) -> Result<(), SealingError> {
        let agreed = async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("insert into token_key (only_one, id) values (1, $1) on conflict do nothing")
                .bind(key.id())
                .execute(&mut *transaction)
                .await?;
            let row = sqlx::query("select id from token_key").fetch_one(&mut *transaction).await?;
            let needed: String = row.try_get("id")?;
            let count = "select count(*) as sandboxes from sandboxes where (guest_access like $1 or network like $2) \
                         and (status not in ('stopped', 'error') or keeps_disk = 1)";
            let count = sqlx::query(count).bind(format!("{SEALED}{needed}:%")).bind(SealedSecret::pattern(&needed));
            let count = count.fetch_one(&mut *transaction).await?;
            let sandboxes: i64 = count.try_get("sandboxes")?;
            let is_agreed = if needed == key.id() {
                true
            } else if sandboxes == 0 && self.pool.is_sqlite() {
                // What it has sealed has ended, and nobody else seals here; at a server others may.
                sqlx::query("update token_key set id = $1").bind(key.id()).execute(&mut *transaction).await?;
                true
            } else {
                false
            };
            transaction.commit().await?;
            Ok((is_agreed, needed, sandboxes))
        };
        let (is_agreed, needed, sandboxes) = agreed.await.map_err(failed("agree on the token key"))?;
        match is_agreed {
            true => Ok(()),
            false => Err(SealingError::OtherKey { sandboxes, needed, ours: key.id().to_owned() }),
        }
    }

    async fn seal_clear_tokens(&self, key: &TokenKey) -> Result<usize, sqlx::Error> {
        let clear = "select id, guest_access from sandboxes \
                     where guest_access is not null and guest_access <> $1 and guest_access not like $2";
        let rows = sqlx::query(clear).bind(OPEN).bind(format!("{SEALED}%")).fetch_all(&self.pool).await?;
        for row in &rows {
            let (id, clear): (SandboxId, String) = (super::record::parse(row, "id")?, row.try_get("guest_access")?);
            sqlx::query("update sandboxes set guest_access = $1 where id = $2 and guest_access = $3")
                .bind(KeptToken::seal(&AccessToken::recorded(clear.clone()), key, &id))
                .bind(id.as_str())
                .bind(clear)
                .execute(&self.pool)
                .await?;
        }
        Ok(rows.len())
    }

    /// SQLite leaves what it replaces in its files until something else comes there. A server's files are its own affair.
    async fn forget_what_was_overwritten(&self) -> Result<(), sqlx::Error> {
        if self.pool.is_sqlite() {
            for statement in ["vacuum", "pragma wal_checkpoint(truncate)"] {
                sqlx::raw_sql(statement).execute(&self.pool).await?;
            }
        }
        Ok(())
    }

    /// What is recorded of who may speak with a guest agent.
    pub(super) fn recorded_access(&self, id: &SandboxId, access: &GuestAccess) -> Result<Option<String>, sqlx::Error> {
        match access {
            GuestAccess::Closed => Ok(None),
            GuestAccess::Open => Ok(Some(OPEN.to_owned())),
            GuestAccess::Token(token) => Ok(Some(KeptToken::seal(token, self.token_key()?, id))),
        }
    }

    /// A sandbox's token, for its owner.
    pub fn access_token(&self, sandbox: &Sandbox) -> Result<Option<AccessToken>, StoreError> {
        let revealed = sandbox.guest_access.token().map(|kept| self.reveal(kept, &sandbox.id)).transpose();
        revealed.map_err(failed("unseal the sandbox's token"))
    }

    /// The tokens of all sandboxes that may run or be woken: for a call that shows a signature made with one of them and
    /// does not say of which sandbox.
    pub async fn access_tokens(&self) -> Result<Vec<(SandboxId, AccessToken)>, StoreError> {
        let tokens = async {
            let rows = sqlx::query(
                "select id, guest_access from sandboxes \
                 where guest_access is not null and guest_access <> $1 and status not in ('stopped', 'error')",
            )
            .bind(OPEN)
            .fetch_all(&self.pool)
            .await?;
            rows.iter()
                .map(|row| {
                    let (id, kept) = (super::record::parse(row, "id")?, row.try_get("guest_access")?);
                    let kept = KeptToken::recorded(kept).map_err(undecodable)?;
                    self.reveal(&kept, &id).map(|token| (id, token))
                })
                .collect::<Result<Vec<_>, sqlx::Error>>()
        };
        tokens.await.map_err(failed("read the sandboxes' tokens"))
    }

    fn reveal(&self, kept: &KeptToken, id: &SandboxId) -> Result<AccessToken, sqlx::Error> {
        kept.reveal(self.token_key()?, id).map_err(|error: UnsealError| undecodable(error))
    }

    pub(super) fn token_key(&self) -> Result<&TokenKey, sqlx::Error> {
        self.token_key.as_ref().ok_or_else(|| undecodable("the records were opened without a token key"))
    }
}

fn undecodable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

#[cfg(test)]
mod tests {
    use model::Status;

    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Change, NewSandbox};

    testing::on_every_engine!(
        tokens_are_told_with_their_key_and_with_no_other,
        tokens_of_an_earlier_version_are_sealed_at_the_next_start,
        a_key_that_nothing_needs_any_more_may_be_another_one_where_nobody_else_seals,
    );

    async fn insert(store: &Store) -> (Sandbox, AccessToken) {
        let token = AccessToken::random();
        let new = NewSandbox { guest_access: GuestAccess::Token(token.clone()), ..testing::sandbox("alice") };
        (store.insert(&new).await.unwrap(), token)
    }

    async fn recorded(store: &Store, sandbox: &Sandbox) -> String {
        let row = sqlx::query("select guest_access from sandboxes where id = $1").bind(sandbox.id.as_str());
        row.fetch_one(&store.pool).await.unwrap().try_get("guest_access").unwrap()
    }

    async fn tokens_are_told_with_their_key_and_with_no_other(database: Database) {
        let (key, other) = (TokenKey::random(), TokenKey::random());
        let store = database.open().await.sealing_with(key.clone()).await.unwrap();
        let (sandbox, token) = insert(&store).await;
        assert_eq!(store.access_token(&sandbox).unwrap(), Some(token.clone()));
        assert!(!recorded(&store, &sandbox).await.contains(token.reveal()));
        let again = database.open().await.sealing_with(key.clone()).await.unwrap();
        assert_eq!(again.access_tokens().await.unwrap(), [(sandbox.id.clone(), token)]);
        let refused = database.open().await.sealing_with(other.clone()).await.unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(key.id()) && said.contains(other.id()) && said.contains("of 1 sandboxes"), "{said}");
        // Of two rows that were exchanged neither is told.
        let (second, _) = insert(&store).await;
        let text = recorded(&store, &sandbox).await;
        sqlx::query("update sandboxes set guest_access = $1 where id = $2")
            .bind(text)
            .bind(second.id.as_str())
            .execute(&store.pool)
            .await
            .unwrap();
        let second = store.get_of_anyone(&second.id).await.unwrap().unwrap();
        assert!(store.access_token(&second).is_err());
    }

    async fn tokens_of_an_earlier_version_are_sealed_at_the_next_start(database: Database) {
        let store = database.open().await;
        let (sandbox, token) = insert(&store).await;
        let clear = "update sandboxes set guest_access = $1 where id = $2";
        sqlx::query(clear).bind(token.reveal()).bind(sandbox.id.as_str()).execute(&store.pool).await.unwrap();
        let seen = store.get_of_anyone(&sandbox.id).await.unwrap().unwrap();
        assert_eq!(store.access_token(&seen).unwrap(), Some(token.clone()), "an older one beside this may write such");
        assert!(database.holds(token.reveal()) != Some(false), "so the next look means something");

        let key = testing::token_key();
        let store = database.open().await.sealing_with(key.clone()).await.unwrap();
        let seen = store.get_of_anyone(&sandbox.id).await.unwrap().unwrap();
        assert!(recorded(&store, &seen).await.starts_with(&format!("{SEALED}{}:", key.id())));
        assert_eq!(store.access_token(&seen).unwrap(), Some(token.clone()));
        assert_ne!(database.holds(token.reveal()), Some(true), "nor in what SQLite has not written over yet");
    }

    async fn a_key_that_nothing_needs_any_more_may_be_another_one_where_nobody_else_seals(database: Database) {
        let store = database.open().await.sealing_with(testing::token_key()).await.unwrap();
        let (sandbox, _) = insert(&store).await;
        let new = TokenKey::random();
        assert!(matches!(
            database.open().await.sealing_with(new.clone()).await,
            Err(SealingError::OtherKey { sandboxes: 1, .. })
        ));
        store.update(&sandbox, Change::to(Status::Stopped)).await.unwrap().unwrap();
        let is_shared = !store.pool.is_sqlite();
        let replaced = database.open().await.sealing_with(new).await;
        assert_eq!(replaced.is_err(), is_shared);
        let Ok(store) = replaced else { return };
        let (sandbox, token) = insert(&store).await;
        assert_eq!(store.access_token(&sandbox).unwrap(), Some(token));
    }
}
