//! Of several control planes on one database, which of them compares the records with the hosts.
//!
//! On PostgreSQL each holds two locks of its session, which the server lets go of when the connection ends, however
//! that comes about: one that all of them share and that says that somebody is there, and one that only one has.
//! A third lock is of its number, by which records say whose work is under way. No clock is compared with another's. A file
//! has one control plane.

use std::collections::HashSet;
use std::time::Duration;

use model::Work;
use sqlx::{AnyConnection, Connection};

use super::{StoreError, failed};
use crate::store_url::{PostgresUrl, StoreUrl};

/// Locks are known by numbers; migrations use one of their own.
const PRESENT: i64 = 0x5a4d_5049_5045_0001;
const LEADING: i64 = 0x5a4d_5049_5045_0002;
/// With a control plane's number.
const WORKERS: i32 = 0x5a4d_5049;

/// How long the server may take. Whoever does not hear from it does not lead.
const PATIENCE: Duration = Duration::from_secs(5);

/// A control plane that fell silent loses its locks within half a minute, also where the network swallows everything.
const SETTINGS: &str = "set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 4";

/// The number of a control plane among those on one database: another one each time that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Worker(i32);

impl Worker {
    /// Somebody new.
    pub fn random() -> Self {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        Self((i32::from_ne_bytes(bytes) & i32::MAX).max(1))
    }

    /// As the database says it.
    fn recorded(number: i64) -> Option<Self> {
        i32::try_from(number).ok().filter(|number| *number > 0).map(Self)
    }

    /// For a record.
    pub(super) fn number(self) -> i64 {
        self.0.into()
    }
}

/// In whose hands that is what a record says is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// It is not known: the record is older than these numbers.
    Unknown,
    /// In those of whoever changed it last.
    Of(Worker),
    /// Whoever had it does not know how it ended, and has let go of it.
    None,
}

impl Hands {
    /// As a record says [`Hands::None`].
    pub(super) const NONE: i64 = -1;

    /// As a record says it.
    pub(super) fn recorded(number: i64) -> Self {
        match Worker::recorded(number) {
            Some(worker) => Self::Of(worker),
            None if number == Self::NONE => Self::None,
            None => Self::Unknown,
        }
    }
}

/// Which control planes are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workers {
    /// It cannot be told now.
    Unknown,
    /// These and no others. One whose connection broke is missing until it has made another.
    These(HashSet<Worker>),
}

impl Workers {
    /// Whether somebody may be working on what is in these hands.
    pub fn work(&self, hands: Hands) -> Work {
        match (self, hands) {
            (_, Hands::None) => Work::LetGo,
            (Self::These(these), Hands::Of(worker)) if !these.contains(&worker) => Work::Abandoned,
            _ => Work::MayGoOn,
        }
    }
}

/// A control plane's place among those on one database.
#[derive(Debug)]
pub struct Seat(Kind);

#[derive(Debug)]
enum Kind {
    /// Nobody else uses the database.
    Only,
    Among {
        server: PostgresUrl,
        worker: Worker,
        /// None while the server is away.
        connection: Option<AnyConnection>,
        leads: bool,
    },
}

/// Who was there already when a control plane came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nobody: what is unfinished in the records, nobody works on.
    None,
    /// Somebody, who may be working on what is unfinished in the records.
    Some,
}

impl Seat {
    /// The place of somebody who is alone.
    pub fn only() -> Self {
        Self(Kind::Only)
    }

    /// Takes the place of `worker`.
    pub async fn take(url: &StoreUrl, worker: Worker) -> Result<(Self, Others), StoreError> {
        let StoreUrl::Postgres(server) = url else { return Ok((Self::only(), Others::None)) };
        let work = async {
            let mut connection = connect(server).await?;
            let is_first = lock(&mut connection, "select pg_try_advisory_lock($1)", PRESENT).await?;
            share(&mut connection, worker).await?;
            if is_first {
                lock(&mut connection, "select pg_advisory_unlock($1)", PRESENT).await?;
            }
            Ok((connection, if is_first { Others::None } else { Others::Some }))
        };
        let (connection, others) = in_time(work).await.map_err(failed("take a place among the control planes"))?;
        let kind = Kind::Among { server: server.clone(), worker, connection: Some(connection), leads: false };
        Ok((Self(kind), others))
    }

    /// Whether this control plane is the one, now. It stays the one until it ends or loses its connection.
    pub async fn leads(&mut self) -> bool {
        let Kind::Among { server, worker, connection, leads } = &mut self.0 else { return true };
        // Taken out: a connection that was given up in the middle of something is of no more use.
        let (held, had) = (connection.take(), *leads);
        *leads = false;
        let work = async {
            let mut held = match held {
                Some(held) => held,
                None => {
                    let mut held = connect(server).await?;
                    share(&mut held, *worker).await?;
                    held
                }
            };
            // Asking for what one has would count it twice.
            let has = match had {
                true => sqlx::query("select 1").execute(&mut held).await.map(|_| true)?,
                false => lock(&mut held, "select pg_try_advisory_lock($1)", LEADING).await?,
            };
            Ok((held, has))
        };
        match in_time(work).await {
            Ok((held, has)) => (*connection, *leads) = (Some(held), has),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no place among the control planes");
            }
        }
        *leads
    }
}

impl Seat {
    /// Who is there.
    pub async fn workers(&mut self) -> Workers {
        let Kind::Among { connection: Some(connection), .. } = &mut self.0 else { return Workers::Unknown };
        let held = sqlx::query_scalar(
            "select cast(objid as bigint) from pg_locks where locktype = 'advisory' and granted and objsubid = 2 \
             and cast(classid as bigint) = $1 \
             and database = (select oid from pg_database where datname = current_database())",
        );
        match in_time(held.bind(i64::from(WORKERS)).fetch_all(connection)).await {
            Ok(numbers) => Workers::These(numbers.into_iter().filter_map(Worker::recorded).collect()),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the other control planes are not known");
                Workers::Unknown
            }
        }
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn connect(server: &PostgresUrl) -> Result<AnyConnection, sqlx::Error> {
    let mut connection = AnyConnection::connect(server.secret()).await?;
    sqlx::raw_sql(SETTINGS).execute(&mut connection).await?;
    Ok(connection)
}

async fn lock(connection: &mut AnyConnection, query: &'static str, number: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(query).bind(number).fetch_one(connection).await
}

/// Waits while another control plane finds out whether it is alone.
async fn share(connection: &mut AnyConnection, worker: Worker) -> Result<(), sqlx::Error> {
    // The function returns nothing, which the driver knows no type for.
    sqlx::query("select cast(pg_advisory_lock_shared($1) as text)").bind(PRESENT).execute(&mut *connection).await?;
    let own = sqlx::query("select cast(pg_advisory_lock_shared($1, $2) as text)");
    own.bind(WORKERS).bind(worker.0).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use testkit::Postgres;

    use super::*;

    #[tokio::test]
    async fn one_leads_until_it_is_gone_and_only_the_first_finds_nobody() {
        sqlx::any::install_default_drivers();
        let url: StoreUrl = Postgres::shared().database().parse().unwrap();
        let (mut first, others) = Seat::take(&url, Worker::random()).await.unwrap();
        assert_eq!(others, Others::None);
        let (mut second, others) = Seat::take(&url, Worker::random()).await.unwrap();
        assert_eq!(others, Others::Some);
        for _ in 0..2 {
            assert!(first.leads().await && !second.leads().await);
        }
        drop(first);
        // The server notices by itself, soon.
        let taken = testkit::wait_for("the place to be free", async || second.leads().await.then_some(())).await;
        assert_eq!(taken, ());
        let (third, others) = Seat::take(&url, Worker::random()).await.unwrap();
        assert_eq!(others, Others::Some);
        drop((second, third));
        let alone = async || Seat::take(&url, Worker::random()).await.unwrap().1 == Others::None;
        testkit::wait_for("everybody to be gone", async || alone().await.then_some(())).await;
    }

    #[tokio::test]
    async fn whose_work_may_go_on_is_known() {
        sqlx::any::install_default_drivers();
        let url: StoreUrl = Postgres::shared().database().parse().unwrap();
        let (one, other) = (Worker::random(), Worker::random());
        let (mut first, _) = Seat::take(&url, one).await.unwrap();
        let (second, _) = Seat::take(&url, other).await.unwrap();
        assert_eq!(first.workers().await, Workers::These(HashSet::from([one, other])));
        drop(second);
        let mut gone = async || (first.workers().await.work(Hands::Of(other)) == Work::Abandoned).then_some(());
        testkit::wait_for("the second to be gone", async || gone().await).await;
        let now = first.workers().await;
        assert_eq!([Hands::Of(one), Hands::Unknown].map(|hands| now.work(hands)), [Work::MayGoOn; 2]);
        assert_eq!(now.work(Hands::None), Work::LetGo);
        assert_eq!(Seat::only().workers().await.work(Hands::Of(other)), Work::MayGoOn, "it cannot be told");
    }

    #[tokio::test]
    async fn whoever_does_not_reach_the_server_does_not_lead_and_does_so_again_when_it_is_back() {
        sqlx::any::install_default_drivers();
        let cluster = Postgres::launch();
        let (mut seat, _) = Seat::take(&cluster.database().parse().unwrap(), Worker::random()).await.unwrap();
        assert!(seat.leads().await);
        cluster.stop();
        assert!(!seat.leads().await && !seat.leads().await);
        cluster.start();
        assert!(seat.leads().await);
    }

    #[tokio::test]
    async fn a_file_has_one_control_plane() {
        let url = StoreUrl::Sqlite("/nowhere.db".into());
        let (mut seat, others) = Seat::take(&url, Worker::random()).await.unwrap();
        assert!(seat.leads().await && others == Others::None);
    }
}
