//! The records: the only module with SQL. One SQL text for every engine, times as milliseconds, no engine's own types.
//!
//! Every query about a sandbox is scoped by its owner (but for its traffic, which only has its id), and every change of status names the generation that it was
//! decided on, so that of two changes at once one is lost instead of both being half done. Knows nothing of REST, of
//! RPC or of what is legal in which state.

mod connections;
mod counts;
mod deadlines;
mod events;
mod guest_access;
mod hosts;
mod idempotency;
mod in_memory;
mod kept_token;
mod keys;
mod list;
mod metrics;
mod network;
mod open;
mod postgres;
mod record;
mod sandboxes;
mod sealed_secret;
mod seat;
mod simulated;
mod snapshots;
mod sqlite;
mod tags;
#[cfg(test)]
mod testing;
mod token_sealing;
mod traffic_token;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;

use connections::Connections;

use crate::token_key::TokenKey;

pub use deadlines::Shift;
pub use events::{Action, Actor, Event, EventKind, Outcome, sandbox_of};
pub use guest_access::{AccessToken, GuestAccess};
pub use hosts::{HostFacts, TemplateBuild};
pub use idempotency::{Claim, Inserted, Once};
pub use in_memory::{Memory, Passage, Way};
pub use kept_token::KeptToken;
pub(crate) use keys::hex;
pub use keys::{Admission, ApiKey, looks_like_key};
pub use list::{Cursor, Filter};
pub use metrics::{Series, Use};
pub use open::OpenError;
pub use record::{NewSandbox, Sandbox};
pub use sandboxes::Change;
pub use sealed_secret::SealedSecret;
pub use seat::{Hands, Others, Seat, Worker, Workers};
pub use snapshots::{Completed, Naming, Needed, NewSnapshot, Snapshot, SnapshotFilter};
pub use tags::{Meant, Tagging};
pub use token_sealing::SealingError;
pub use traffic_token::{TrafficToken, TrafficTokenHash};
pub use usage::{Running, step};

/// A handle on the records; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Connections,
    /// The number of the newest event that this process has recorded.
    news: Arc<watch::Sender<i64>>,
    /// When the use of each key was last recorded by this process.
    used: Arc<Mutex<HashMap<String, Instant>>>,
    /// Whose work it records.
    worker: Worker,
    /// What tokens are sealed with; none where nobody is to be told one.
    token_key: Option<TokenKey>,
}

/// A query that the database did not answer.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct StoreError {
    /// What was asked of the database.
    step: &'static str,
    source: sqlx::Error,
}

impl StoreError {
    /// Whether the database could not be asked, so that the same may succeed later; else it answered with an error.
    pub fn is_unreachable(&self) -> bool {
        match &self.source {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
            // A server that starts, stops or has no connection left says so in an answer.
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                ["08", "57P", "53300"].iter().any(|class| code.starts_with(class))
            }
            _ => false,
        }
    }
}

/// For `map_err`: names the step that failed.
fn failed(step: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError { step, source }
}

impl Store {
    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("select 1").execute(&self.pool).await.map_err(failed("reach the database"))?;
        Ok(())
    }

    /// Whose work this records.
    pub fn worker(&self) -> Worker {
        self.worker
    }

    /// Closes the connections; nothing may use the store afterwards.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
