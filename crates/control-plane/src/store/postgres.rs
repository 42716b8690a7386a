//! A PostgreSQL server: connections, which are made anew when it was away, and limits on what may wait there.

use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyConnection, AnyPool, Connection};

use super::open::{OpenError, migrate};
use crate::store_url::PostgresUrl;

/// Enough for a busy control plane; a server allows 100 by default and may have several of us.
const CONNECTIONS: u32 = 20;

/// How long a query may wait for a connection, also while the server is away.
const ACQUIRE: Duration = Duration::from_secs(5);

/// How long the server may take to answer at the start.
const CONNECT: Duration = Duration::from_secs(15);

/// A connection that answered within this time is taken to be good.
const FRESH: Duration = Duration::from_millis(100);

/// Our queries take milliseconds: one that takes this long waits for something that will not come.
const SETTINGS: &str = "set statement_timeout = '15s'";

/// Connects, and brings the tables up to date; the migrations take an advisory lock.
pub async fn open(url: &PostgresUrl) -> Result<AnyPool, OpenError> {
    let unusable = |source| OpenError::Connect { database: url.to_string(), source };
    let first = tokio::time::timeout(CONNECT, AnyConnection::connect(url.secret()));
    // On one connection first: a pool would try again and again what cannot succeed.
    let mut first = first.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(unusable)?;
    migrate(&mut first, &url.to_string()).await?;
    first.close().await.map_err(unusable)?;
    AnyPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(ACQUIRE)
        // Asking first doubles the round trips: only a connection that had time to break is asked.
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for >= FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(SETTINGS).execute(connection).await?;
                Ok(())
            })
        })
        .connect(url.secret())
        .await
        .map_err(unusable)
}

#[cfg(test)]
mod tests {
    use testkit::{Postgres, TlsPostgres};

    use crate::store::Store;

    #[tokio::test]
    async fn a_server_on_another_machine_is_spoken_to_encrypted_and_must_be_the_one_that_was_named() {
        let cluster = TlsPostgres::launch();
        let open = async |host: &str, mode: &str, authority: &std::path::Path| {
            let parameters = format!("sslmode={mode}&sslrootcert={}", authority.display());
            Store::open(&cluster.database(host, &parameters).parse().unwrap()).await
        };
        let (own, other) = (cluster.authority(), cluster.other_authority());
        let store = open("localhost", "verify-full", &own).await.unwrap();
        let encrypted: String =
            sqlx::query_scalar("select cast(ssl as text) from pg_stat_ssl where pid = pg_backend_pid()")
                .fetch_one(&store.pool)
                .await
                .unwrap();
        assert_eq!(encrypted, "true");
        assert!(open("127.0.0.1", "verify-ca", &own).await.is_ok(), "only the name differs");
        for (host, mode, authority) in
            [("127.0.0.1", "verify-full", &own), ("localhost", "verify-full", &other), ("localhost", "disable", &own)]
        {
            let refused = open(host, mode, authority).await.unwrap_err();
            let source = std::error::Error::source(&refused).unwrap();
            let texts = format!("{refused} {refused:?} {source}");
            assert!(!texts.contains(Postgres::PASSWORD), "{texts}");
        }
    }

    #[tokio::test]
    async fn a_server_that_was_away_is_used_again() {
        let cluster = Postgres::launch();
        let store = Store::open(&cluster.database().parse().unwrap()).await.unwrap();
        cluster.stop();
        let error = store.ping().await.unwrap_err();
        assert!(error.is_unreachable(), "{error:?}");
        cluster.start();
        store.ping().await.unwrap();
    }

    #[tokio::test]
    async fn no_error_shows_the_password() {
        let cluster = Postgres::launch();
        let url = cluster.database();
        cluster.stop();
        let stopped = Store::open(&url.parse().unwrap()).await.unwrap_err();
        cluster.start();
        let absent = Store::open(&url.replace("test0", "absent").parse().unwrap()).await.unwrap_err();
        for error in [stopped, absent] {
            let source = std::error::Error::source(&error).unwrap();
            let texts = format!("{error} {error:?} {source}");
            assert!(texts.contains("localhost/") && !texts.contains(Postgres::PASSWORD), "{texts}");
        }
    }
}
