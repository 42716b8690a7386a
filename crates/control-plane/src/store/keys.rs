//! API keys: made once, kept as hashes, revoked for ever.

use std::fmt::Write;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::OwnerId;
use sha2::{Digest, Sha256};
use sqlx::Row;
use sqlx::any::AnyRow;
use subtle::ConstantTimeEq;

use super::events::append_of_key;
use super::{EventKind, Store, StoreError, failed};

/// What every key begins with, so that the clients that people already have accept it.
const PREFIX: &str = "e2b_";
/// The use of a key is recorded at most so often.
const USE_TOLD: Duration = Duration::from_secs(3600);

const SECRET_BYTES: usize = 20;
const ID_DIGITS: usize = 8;

/// A key as it is recorded: everything but the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The first digits of the key, by which it is known.
    pub id: String,
    /// Whose requests it makes.
    pub owner: OwnerId,
    /// What it is for, in its maker's words.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What the records say of a key that a request came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The server asks for no keys: there never was one.
    Open,
    /// The key is good.
    Owner(OwnerId),
    /// There is no such key, it was revoked, or none came.
    Refused,
}

impl Store {
    /// Makes a key for `owner`, or for a new owner of its own. The returned text is the key itself: nobody can read it
    /// again.
    pub async fn create_key(&self, name: &str, owner: Option<OwnerId>) -> Result<(ApiKey, String), StoreError> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        let digits = hex(&bytes);
        let (id, key) = (digits[..ID_DIGITS].to_owned(), format!("{PREFIX}{digits}"));
        let owner = owner.unwrap_or_else(|| format!("key-{id}").parse().expect("hex digits make a label"));
        let made = async {
            let mut transaction = self.pool.begin().await?;
            let row = sqlx::query(
                "insert into api_keys (id, owner_id, name, hash, created_at) values ($1, $2, $3, $4, $5) returning *",
            )
            .bind(&id)
            .bind(owner.as_str())
            .bind(name)
            .bind(hash(&key))
            .bind(Timestamp::now().as_millisecond())
            .fetch_one(&mut *transaction)
            .await?;
            let last = append_of_key(&mut transaction, &owner, &id, EventKind::KeyCreate).await?;
            transaction.commit().await?;
            Ok((read(&row)?, last))
        };
        let (row, last) = made.await.map_err(failed("record the key"))?;
        self.tell(last);
        Ok((row, key))
    }

    /// Every key that there ever was, the newest first.
    pub async fn keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let rows = sqlx::query("select * from api_keys order by created_at desc, id").fetch_all(&self.pool).await;
        rows.and_then(|rows| rows.iter().map(read).collect()).map_err(failed("list the keys"))
    }

    /// Revokes a key. Returns whether there is one; revoking twice changes nothing.
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let revoked = async {
            let mut transaction = self.pool.begin().await?;
            let owner: Option<String> = sqlx::query_scalar(
                "update api_keys set revoked_at = $1 where id = $2 and revoked_at is null returning owner_id",
            )
            .bind(Timestamp::now().as_millisecond())
            .bind(id)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(owner) = owner else { return Ok(None) };
            let owner: OwnerId = owner.parse().map_err(|error: model::InvalidId| sqlx::Error::Decode(error.into()))?;
            let last = append_of_key(&mut transaction, &owner, id, EventKind::KeyRevoke).await?;
            transaction.commit().await?;
            Ok(Some(last))
        };
        if let Some(last) = revoked.await.map_err(failed("revoke the key"))? {
            self.tell(last);
            return Ok(true);
        }
        let known = sqlx::query("select 1 from api_keys where id = $1").bind(id).fetch_optional(&self.pool).await;
        Ok(known.map_err(failed("look the key up"))?.is_some())
    }

    /// Whether a key is asked for.
    pub async fn asks_for_keys(&self) -> Result<bool, StoreError> {
        let any = sqlx::query("select 1 from api_keys limit 1").fetch_optional(&self.pool).await;
        Ok(any.map_err(failed("look for keys"))?.is_some())
    }

    /// Looks at the key of a request. Asks the database each time: a key that was revoked is dead at once.
    pub async fn admit(&self, key: Option<&str>) -> Result<Admission, StoreError> {
        if let Some((key, id)) = key.and_then(|key| Some((key, id_of(key)?))) {
            let row = sqlx::query("select * from api_keys where id = $1 and revoked_at is null")
                .bind(id)
                .fetch_optional(&self.pool)
                .await
                .map_err(failed("look the key up"))?;
            if let Some(row) = row {
                let recorded: String = row.try_get("hash").map_err(failed("read the key"))?;
                let is_same = bool::from(hash(key).as_bytes().ct_eq(recorded.as_bytes()));
                let owner = read(&row).map_err(failed("read the key"))?.owner;
                if !is_same {
                    return Ok(Admission::Refused);
                }
                self.note_use(id, &owner).await;
                return Ok(Admission::Owner(owner));
            }
        }
        Ok(if self.asks_for_keys().await? { Admission::Refused } else { Admission::Open })
    }
}

impl Store {
    /// Records that a key is in use, once in a while. No request fails because that could not be recorded.
    async fn note_use(&self, id: &str, owner: &OwnerId) {
        {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            let last = used.insert(id.to_owned(), Instant::now());
            if let Some(last) = last.filter(|last| last.elapsed() < USE_TOLD) {
                used.insert(id.to_owned(), last);
                return;
            }
        }
        let recorded = async {
            let mut transaction = self.pool.begin().await?;
            let last = append_of_key(&mut transaction, owner, id, EventKind::KeyUse).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(last)
        };
        match recorded.await {
            Ok(last) => self.tell(last),
            Err(error) => tracing::warn!(%error, key = id, "the use of a key is not recorded"),
        }
    }
}

/// Whether a text has the form of a key, good or not.
pub fn looks_like_key(text: &str) -> bool {
    id_of(text).is_some()
}

/// The digits by which a key is known, if it looks like one.
fn id_of(key: &str) -> Option<&str> {
    let digits = key.strip_prefix(PREFIX)?;
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() == 2 * SECRET_BYTES && is_hex).then(|| &digits[..ID_DIGITS])
}

pub(super) fn hash(key: &str) -> String {
    hex(&Sha256::digest(key.as_bytes()))
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read(row: &AnyRow) -> Result<ApiKey, sqlx::Error> {
    let time = |column| -> Result<Option<Timestamp>, sqlx::Error> {
        let milliseconds: Option<i64> = row.try_get(column)?;
        milliseconds.map(Timestamp::from_millisecond).transpose().map_err(|error| sqlx::Error::Decode(error.into()))
    };
    let owner: String = row.try_get("owner_id")?;
    Ok(ApiKey {
        id: row.try_get("id")?,
        owner: owner.parse().map_err(|error: model::InvalidId| sqlx::Error::Decode(error.into()))?,
        name: row.try_get("name")?,
        created_at: time("created_at")?.unwrap_or_default(),
        revoked_at: time("revoked_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(
        without_keys_everybody_is_let_in_and_with_one_nobody_without,
        a_revoked_key_is_dead_and_the_server_still_asks,
        what_is_recorded_is_not_the_key,
    );

    async fn without_keys_everybody_is_let_in_and_with_one_nobody_without(database: Database) {
        let store = database.open().await;
        let wrong = format!("{PREFIX}{}", "0".repeat(40));
        for key in [None, Some("anything"), Some(&wrong)] {
            assert_eq!(store.admit(key).await.unwrap(), Admission::Open);
        }
        let (recorded, key) = store.create_key("mine", None).await.unwrap();
        assert_eq!(store.admit(Some(&key)).await.unwrap(), Admission::Owner(recorded.owner));
        let last = if key.ends_with('0') { "1" } else { "0" };
        let forged = format!("{}{last}", &key[..key.len() - 1]);
        for key in [None, Some(""), Some("anything"), Some(&wrong), Some(&forged), Some(&key.to_uppercase())] {
            assert_eq!(store.admit(key).await.unwrap(), Admission::Refused, "{key:?}");
        }
    }

    async fn a_revoked_key_is_dead_and_the_server_still_asks(database: Database) {
        let store = database.open().await;
        let (recorded, key) = store.create_key("", Some("alice".parse().unwrap())).await.unwrap();
        assert!(!store.revoke_key("00").await.unwrap());
        for _ in 0..2 {
            assert!(store.revoke_key(&recorded.id).await.unwrap());
            assert_eq!(store.admit(Some(&key)).await.unwrap(), Admission::Refused);
        }
        assert!(store.asks_for_keys().await.unwrap());
        let listed = store.keys().await.unwrap();
        assert!(listed.len() == 1 && listed[0].revoked_at.is_some() && listed[0].owner.as_str() == "alice");
    }

    async fn what_is_recorded_is_not_the_key(database: Database) {
        let store = database.open().await;
        let (recorded, key) = store.create_key("mine", None).await.unwrap();
        assert!(key.len() == 44 && key.starts_with(&format!("{PREFIX}{}", recorded.id)));
        let stored: String = sqlx::query_scalar("select hash from api_keys").fetch_one(&store.pool).await.unwrap();
        assert!(!key.contains(&stored) && stored == hash(&key));
        assert!(!format!("{recorded:?}").contains(&key[PREFIX.len()..]));
    }
}
