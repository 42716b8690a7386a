//! The store's tests run on both engines: one body, called with a new database of either.

use model::{AutoResume, Lifetime, OnExpiry, SandboxId};

use crate::store::{NewSandbox, Store};
use crate::store_url::StoreUrl;

/// A new sandbox of `owner`, with the defaults for everything else.
pub fn sandbox(owner: &str) -> NewSandbox {
    NewSandbox {
        id: SandboxId::random(),
        owner: owner.parse().unwrap(),
        host: "default".parse().unwrap(),
        template: "minimal".parse().unwrap(),
        snapshot: None,
        shape: Default::default(),
        lifetime: Lifetime::Never,
        on_expiry: OnExpiry::Destroy,
        auto_resume: AutoResume::Off,
        traffic_token: None,
        metadata: Default::default(),
        network: Default::default(),
    }
}

/// An empty database that is there as long as this is.
pub struct Database {
    url: StoreUrl,
    _directory: Option<tempfile::TempDir>,
}

impl Database {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { url: StoreUrl::Sqlite(directory.path().join("store.db")), _directory: Some(directory) }
    }

    pub fn postgres() -> Self {
        Self { url: testkit::Postgres::shared().database().parse().unwrap(), _directory: None }
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// Makes a test on each engine of every named function, which gets a [`Database`] of its own.
macro_rules! on_both_engines {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::testing::Database::sqlite()).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::testing::Database::postgres()).await;
            })+
        }
    };
}
pub(crate) use on_both_engines;
