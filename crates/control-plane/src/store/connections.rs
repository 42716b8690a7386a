//! How the store reaches its database: by a pool of connections, or, where the records are in memory, by the only one
//! there is (see [`super::in_memory`]).

use std::fmt;
use std::future::ready;
use std::ops::{Deref, DerefMut};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::{Any, AnyPool, Describe, Either, Error, Execute, Executor, SqlStr};

use super::in_memory::{Held, Only};

/// The connections of a store; cheap to clone.
#[derive(Debug, Clone)]
pub enum Connections {
    /// To a file or a server.
    Pool(AnyPool),
    /// To what is in memory.
    Only(Only),
}

/// Changes that are made together or not at all. Undone where this is dropped before it was committed.
#[derive(Debug)]
pub struct Transaction(Connection);

/// What a transaction works on.
pub enum Connection {
    /// One of a pool's.
    Pooled(sqlx::Transaction<'static, Any>),
    /// The only one.
    Only(Held),
}

impl Connections {
    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        let connection = match self {
            Self::Pool(pool) => Connection::Pooled(pool.begin().await?),
            Self::Only(only) => Connection::Only(only.begin().await?),
        };
        Ok(Transaction(connection))
    }

    /// Closes them; what is in memory stays as long as others know it.
    pub async fn close(&self) {
        if let Self::Pool(pool) = self {
            pool.close().await;
        }
    }

    /// Whether the database is SQLite.
    pub fn is_sqlite(&self) -> bool {
        match self {
            Self::Pool(pool) => pool.connect_options().database_url.scheme() == "sqlite",
            Self::Only(_) => true,
        }
    }
}

impl Transaction {
    /// Makes all changes at once.
    pub async fn commit(self) -> Result<(), Error> {
        match self.0 {
            Connection::Pooled(transaction) => transaction.commit().await,
            Connection::Only(held) => held.commit().await,
        }
    }

    /// Makes none of the changes.
    pub async fn rollback(self) -> Result<(), Error> {
        match self.0 {
            Connection::Pooled(transaction) => transaction.rollback().await,
            // Dropping it does.
            Connection::Only(_) => Ok(()),
        }
    }
}

impl Deref for Transaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl<'c> Executor<'c> for &'c Connections {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Connections::Pool(pool) => pool.fetch_many(query),
            Connections::Only(only) => only.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Connections::Pool(pool) => pool.fetch_optional(query),
            Connections::Only(only) => only.fetch_optional(query),
        }
    }

    fn prepare_with<'e>(
        self,
        _sql: SqlStr,
        _parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(ready(Err(not_asked_for())))
    }

    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'c: 'e,
    {
        Box::pin(ready(Err(not_asked_for())))
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Connection::Pooled(transaction) => (&mut **transaction).fetch_many(query),
            Connection::Only(held) => held.fetch_many(query),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Any>,
    {
        match self {
            Connection::Pooled(transaction) => (&mut **transaction).fetch_optional(query),
            Connection::Only(held) => held.fetch_optional(query),
        }
    }

    fn prepare_with<'e>(
        self,
        _sql: SqlStr,
        _parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(ready(Err(not_asked_for())))
    }

    fn describe<'e>(self, _sql: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'c: 'e,
    {
        Box::pin(ready(Err(not_asked_for())))
    }
}

/// Of what the trait wants and no query of ours needs.
fn not_asked_for() -> Error {
    Error::Protocol("the store prepares and describes no statements by itself".to_owned())
}
