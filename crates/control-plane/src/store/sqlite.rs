//! The embedded engine: the file, its settings, and a lock beside it while tables change.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection};

use super::open::{OpenError, migrate};

/// `synchronous=normal` loses the last changes only when the machine itself goes down, and its sandboxes with it;
/// the reconciler then puts the rows right.
const SETTINGS: &str =
    "pragma journal_mode = wal; pragma busy_timeout = 10000; pragma synchronous = normal; pragma foreign_keys = on;";

/// Each connection is a thread; more than a few only wait for one another.
const CONNECTIONS: u32 = 4;

/// How long a query may wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(10);

/// Opens the file, makes it when it is missing, and brings its tables up to date.
pub async fn open(path: &Path) -> Result<AnyPool, OpenError> {
    let file = |source| OpenError::File { path: path.to_owned(), source };
    make_private_file(path).map_err(file)?;
    let database = path.display().to_string();
    let url = url(path);
    let unusable = |source| OpenError::Connect { database: database.clone(), source };
    let lock = lock(path).await.map_err(file)?;
    // On one connection first: a pool would try again and again what cannot succeed.
    let mut first = AnyConnection::connect(&url).await.map_err(unusable)?;
    configure(&mut first).await.map_err(unusable)?;
    migrate(&mut first, &database).await?;
    first.close().await.map_err(unusable)?;
    drop(lock);
    AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        // A file does not go away.
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(configure(connection)))
        .connect(&url)
        .await
        .map_err(unusable)
}

/// SQLite gives the files that it makes beside this one the same mode. A file that is there is not even opened:
/// closing it would let go of every lock that another connection of this process holds on it.
fn make_private_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Waits until no other process brings these tables up to date; held until it is dropped.
async fn lock(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let locked = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
        file.lock()?;
        Ok(file)
    });
    locked.await.map_err(io::Error::other)?
}

async fn configure(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SETTINGS).execute(connection).await?;
    Ok(())
}

fn url(path: &Path) -> String {
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
    use crate::store::Store;
    use crate::store_url::StoreUrl;

    #[tokio::test]
    async fn a_new_database_is_private_whatever_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a b?c#d%41.db");
        let store = Store::open(&StoreUrl::Sqlite(path.clone())).await.unwrap();
        store.ping().await.unwrap();
        for file in std::fs::read_dir(directory.path()).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(path.exists());
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
