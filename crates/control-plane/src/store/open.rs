//! Opening the database: the file, its settings, the migrations.

use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AnyConnection, Connection};

use super::Store;
use crate::config::StoreUrl;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// `synchronous=normal` loses the last changes only when the machine itself goes down, and its sandboxes with it;
/// the reconciler then puts the rows right.
const SQLITE_SETTINGS: &str =
    "pragma journal_mode = wal; pragma busy_timeout = 10000; pragma synchronous = normal; pragma foreign_keys = on;";

/// Each SQLite connection is a thread; more than a few only wait for one another.
const SQLITE_CONNECTIONS: u32 = 4;

/// How long a query may wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be made or opened.
    #[error("cannot open the database file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is there, but is no database that this engine reads.
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
}

impl Store {
    /// Opens the database, makes it when it is missing, and brings its tables up to date.
    pub async fn open(store: &StoreUrl) -> Result<Self, OpenError> {
        match store {
            StoreUrl::Sqlite(path) => Self::open_sqlite(path).await,
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self, OpenError> {
        make_private_file(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
        let database = path.display().to_string();
        sqlx::any::install_default_drivers();
        let url = sqlite_url(path);
        let unusable = |source| OpenError::Connect { database: database.clone(), source };
        // On one connection first: a pool would try again and again what cannot succeed.
        let mut first = AnyConnection::connect(&url).await.map_err(unusable)?;
        configure_sqlite(&mut first).await.map_err(unusable)?;
        let migrated = MIGRATIONS.run(&mut first).await;
        migrated.map_err(|source| OpenError::Migrate { database: database.clone(), source })?;
        first.close().await.map_err(unusable)?;
        let pool = AnyPoolOptions::new()
            .max_connections(SQLITE_CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .after_connect(|connection, _| Box::pin(configure_sqlite(connection)))
            .connect(&url)
            .await
            .map_err(unusable)?;
        Ok(Self { pool })
    }
}

/// SQLite gives the files that it makes beside this one the same mode.
fn make_private_file(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(())
}

async fn configure_sqlite(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SQLITE_SETTINGS).execute(connection).await?;
    Ok(())
}

fn sqlite_url(path: &Path) -> String {
    let mut url = String::from("sqlite://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => url.push(char::from(*byte)),
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_new_database_is_private_and_survives_a_second_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b?c#d%41.db");
        for _ in 0..2 {
            let store = Store::open(&StoreUrl::Sqlite(path.clone())).await.unwrap();
            store.ping().await.unwrap();
            store.close().await;
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes.txt");
        std::fs::write(&path, "not a database, and long enough to have a header of its own".repeat(20)).unwrap();
        let error = Store::open(&StoreUrl::Sqlite(path.clone())).await.unwrap_err();
        assert!(error.to_string().contains("notes.txt"), "{error}");
        let missing = StoreUrl::Sqlite(directory.path().join("no/such/directory.db"));
        assert!(matches!(Store::open(&missing).await, Err(OpenError::File { .. })));
    }
}
