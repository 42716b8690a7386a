//! Opening the database and bringing its tables up to date, whichever engine it is.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::AnyConnection;
use sqlx::migrate::{MigrateError, Migrator};
use tokio::sync::watch;

use super::connections::Connections;
use super::{Store, Worker, postgres, sqlite};
use crate::store_url::StoreUrl;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made, opened or locked.
    #[error("cannot open the database file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server does not answer, or the file is no database that this engine reads.
    #[error("cannot use the database {database}")]
    Connect {
        /// The database, without secrets.
        database: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The tables cannot be brought to the state that this version needs.
    #[error("cannot migrate the database {database}")]
    Migrate {
        /// The database, without secrets.
        database: String,
        /// Why.
        source: MigrateError,
    },
    /// The server answers no more.
    #[error(transparent)]
    Seat(#[from] super::StoreError),
    /// Tokens are sealed with another key.
    #[error(transparent)]
    Sealing(#[from] super::SealingError),
}

impl Store {
    /// Opens the database, makes it when it is missing, and brings its tables up to date. Of several processes that do
    /// so at once, one migrates and the others wait.
    pub async fn open(store: &StoreUrl) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let pool = match store {
            StoreUrl::Sqlite(path) => sqlite::open(path).await?,
            StoreUrl::Postgres(url) => postgres::open(url).await?,
        };
        let pool = Connections::Pool(pool);
        Ok(Self {
            pool,
            news: Arc::new(watch::Sender::new(0)),
            used: Arc::default(),
            worker: Worker::random(),
            token_key: None,
        })
    }
}

/// Brings the tables up to date.
pub async fn migrate(connection: &mut AnyConnection, database: &str) -> Result<(), OpenError> {
    let migrated = MIGRATIONS.run(connection).await;
    migrated.map_err(|source| OpenError::Migrate { database: database.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use crate::store::testing;

    async fn many_may_open_it_at_once(database: testing::Database) {
        let opened = futures::future::join_all((0..8).map(|_| database.open())).await;
        for store in opened {
            store.ping().await.unwrap();
            store.close().await;
        }
    }

    async fn records_survive_the_next_opening(database: testing::Database) {
        let first = database.open().await;
        let facts = crate::store::HostFacts { version: "0.1.0".into(), ..Default::default() };
        first.host_seen(&"default".parse().unwrap(), &facts).await.unwrap();
        first.close().await;
        let second = database.open().await;
        let versions: Vec<String> =
            sqlx::query_scalar("select version from hosts").fetch_all(&second.pool).await.unwrap();
        assert_eq!(versions, ["0.1.0"]);
    }

    testing::on_every_engine!(many_may_open_it_at_once, records_survive_the_next_opening);
}
