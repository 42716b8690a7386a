//! Records in memory, for simulations: the same SQL on SQLite, by one connection. Every query is answered before it
//! returns for the first time, although SQLite works on a thread of its own, so that queries have one order, the same
//! whenever the same is done, and no time passes.

use std::fmt;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::executor::block_on;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use model::SnapshotId;
use sqlx::any::{AnyQueryResult, AnyRow};
use sqlx::{Any, AnyConnection, Connection as _, Either, Error, Execute, Executor};
use tokio::sync::watch;
use tokio::task::unconstrained;

use super::connections::Connections;
use super::open::{OpenError, migrate};
use super::{Store, StoreError, Worker, failed};
use crate::token_key::TokenKey;

/// A database in memory. It is there as long as any clone of this.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<Option<AnyConnection>>>);

/// Says how the way to the records is, each time that it is used.
pub trait Way: Send + Sync {
    /// Before a query reaches them.
    fn there(&self) -> Passage;

    /// Before its answer comes back. What was to be done is done.
    fn back(&self) -> Passage;
}

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Free.
    Open,
    /// The connection breaks.
    Broken,
    /// Whoever asks does not live to see an answer.
    Never,
}

/// The only connection, by somebody's way.
#[derive(Clone)]
pub struct Only {
    memory: Memory,
    way: Option<Arc<dyn Way>>,
}

/// The same while a transaction has it.
pub struct Held {
    connection: Option<AnyConnection>,
    home: Only,
}

impl Memory {
    /// A new one, with its tables.
    pub fn new() -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let database = "in memory";
        let opened = block_on(unconstrained(async {
            let mut connection = AnyConnection::connect("sqlite::memory:").await?;
            sqlx::raw_sql("pragma foreign_keys = on").execute(&mut connection).await?;
            Ok(connection)
        }));
        let failed = |source| OpenError::Connect { database: database.to_owned(), source };
        let mut connection = opened.map_err(failed)?;
        block_on(unconstrained(migrate(&mut connection, database)))?;
        Ok(Self(Arc::new(Mutex::new(Some(connection)))))
    }

    fn connection(&self) -> MutexGuard<'_, Option<AnyConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// A store of what is in memory, reached by `way`.
    pub fn in_memory(memory: Memory, way: Option<Arc<dyn Way>>) -> Self {
        let pool = Connections::Only(Only { memory, way });
        Self {
            pool,
            news: Arc::new(watch::Sender::new(0)),
            used: Arc::default(),
            worker: Worker::random(),
            // Nobody reads this memory but who has the key.
            token_key: Some(TokenKey::new(&[7; 32])),
        }
    }

    /// Every sandbox of everybody.
    pub fn every_sandbox(&self) -> Result<Vec<super::Sandbox>, StoreError> {
        let all = sqlx::query_as("select * from sandboxes order by id").fetch_all(&self.pool);
        at_once(all).map_err(failed("list all sandboxes"))
    }

    /// Every snapshot of everybody.
    pub fn every_snapshot(&self) -> Result<Vec<SnapshotId>, StoreError> {
        let all = sqlx::query_scalar("select id from snapshots order by id").fetch_all(&self.pool);
        let all: Vec<String> = at_once(all).map_err(failed("list all snapshots"))?;
        Ok(all.iter().filter_map(|id| id.parse().ok()).collect())
    }
}

impl Only {
    fn there(&self) -> Passage {
        self.way.as_ref().map_or(Passage::Open, |way| way.there())
    }

    fn back(&self) -> Passage {
        self.way.as_ref().map_or(Passage::Open, |way| way.back())
    }

    /// One query outside of a transaction; none where nobody lives to see the answer.
    fn ask<T>(&self, query: impl FnOnce(&mut AnyConnection) -> Result<T, Error>) -> Option<Result<T, Error>> {
        let answer = match self.there() {
            Passage::Never => return None,
            Passage::Broken => return Some(Err(broken())),
            Passage::Open => match self.memory.connection().as_mut() {
                Some(connection) => query(connection),
                // A transaction is open that waits for something else than the database.
                None => return Some(Err(Error::PoolTimedOut)),
            },
        };
        match self.back() {
            Passage::Never => None,
            Passage::Broken => Some(Err(broken())),
            Passage::Open => Some(answer),
        }
    }

    pub(super) fn fetch_many<'q, E: Execute<'q, Any> + 'q>(
        &self,
        query: E,
    ) -> BoxStream<'static, Result<Either<AnyQueryResult, AnyRow>, Error>> {
        match self.ask(|connection| Ok(all(connection, query))) {
            None => stream::pending().boxed(),
            Some(Err(error)) => stream::once(ready(Err(error))).boxed(),
            Some(Ok(rows)) => stream::iter(rows).boxed(),
        }
    }

    pub(super) fn fetch_optional<'q, E: Execute<'q, Any> + 'q>(
        &self,
        query: E,
    ) -> BoxFuture<'static, Result<Option<AnyRow>, Error>> {
        match self.ask(|connection| optional(connection, query)) {
            None => Box::pin(pending()),
            Some(answer) => Box::pin(ready(answer)),
        }
    }

    pub(super) async fn begin(&self) -> Result<Held, Error> {
        match self.there() {
            Passage::Never => pending().await,
            Passage::Broken => return Err(broken()),
            Passage::Open => {}
        }
        let mut connection = self.memory.connection().take().ok_or(Error::PoolTimedOut)?;
        let begun = run(&mut connection, "begin");
        let held = Held { connection: Some(connection), home: self.clone() };
        begun.map(|()| held)
    }
}

impl Held {
    /// The connection, if the way to it is free; `None` where nobody lives to see an answer, and all is undone.
    fn reach(&mut self) -> Option<Result<&mut AnyConnection, Error>> {
        match self.home.there() {
            Passage::Never => {
                self.undo();
                None
            }
            Passage::Broken => {
                self.undo();
                Some(Err(broken()))
            }
            Passage::Open => Some(self.connection.as_mut().ok_or_else(broken)),
        }
    }

    pub(super) fn fetch_many<'q, E: Execute<'q, Any> + 'q>(
        &mut self,
        query: E,
    ) -> BoxStream<'static, Result<Either<AnyQueryResult, AnyRow>, Error>> {
        match self.reach() {
            None => stream::pending().boxed(),
            Some(Err(error)) => stream::once(ready(Err(error))).boxed(),
            Some(Ok(connection)) => stream::iter(all(connection, query)).boxed(),
        }
    }

    pub(super) fn fetch_optional<'q, E: Execute<'q, Any> + 'q>(
        &mut self,
        query: E,
    ) -> BoxFuture<'static, Result<Option<AnyRow>, Error>> {
        match self.reach() {
            None => Box::pin(pending()),
            Some(Err(error)) => Box::pin(ready(Err(error))),
            Some(Ok(connection)) => Box::pin(ready(optional(connection, query))),
        }
    }

    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let committed = match self.reach() {
            None => return pending().await,
            Some(reached) => reached.and_then(|connection| run(connection, "commit")),
        };
        if committed.is_ok() {
            *self.home.memory.connection() = self.connection.take();
        }
        match self.home.back() {
            Passage::Open => committed,
            Passage::Broken => Err(broken()),
            Passage::Never => pending().await,
        }
    }

    /// Undoes what was not committed and gives the connection back.
    fn undo(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if let Err(error) = run(&mut connection, "rollback") {
            tracing::error!(%error, "a transaction cannot be undone");
        }
        *self.home.memory.connection() = Some(connection);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.undo();
    }
}

impl fmt::Debug for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in memory")
    }
}

/// The answer of a query that is answered before it returns.
fn at_once<T>(query: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    query.now_or_never().unwrap_or_else(|| Err(broken()))
}

fn broken() -> Error {
    Error::Io(std::io::ErrorKind::ConnectionReset.into())
}

fn all<'q, E: Execute<'q, Any> + 'q>(
    connection: &mut AnyConnection,
    query: E,
) -> Vec<Result<Either<AnyQueryResult, AnyRow>, Error>> {
    block_on(unconstrained(connection.fetch_many(query).collect()))
}

fn optional<'q, E: Execute<'q, Any> + 'q>(connection: &mut AnyConnection, query: E) -> Result<Option<AnyRow>, Error> {
    block_on(unconstrained(connection.fetch_optional(query)))
}

fn run(connection: &mut AnyConnection, statement: &'static str) -> Result<(), Error> {
    block_on(unconstrained(sqlx::raw_sql(statement).execute(connection))).map(drop)
}
