//! The store's tests run on every engine: one body, called with a new database of each.

use model::{AutoResume, Lifetime, OnExpiry, SandboxId};

use crate::store::{Memory, NewSandbox, Store};
use crate::store_url::StoreUrl;
use crate::token_key::TokenKey;

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
        request_host: None,
        https_ports: Default::default(),
        guest_access: Default::default(),
        env: Default::default(),
        ends_at: None,
    }
}

/// With which a database's tokens are sealed, unless a test has another one.
pub fn token_key() -> TokenKey {
    TokenKey::new(&[7; 32])
}

/// An empty database that is there as long as this is.
pub enum Database {
    At { url: StoreUrl, _directory: Option<tempfile::TempDir> },
    InMemory(Memory),
}

impl Database {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::At { url: StoreUrl::Sqlite(directory.path().join("store.db")), _directory: Some(directory) }
    }

    pub fn postgres() -> Self {
        Self::At { url: testkit::Postgres::shared().database().parse().unwrap(), _directory: None }
    }

    pub async fn open(&self) -> Store {
        match self {
            Self::At { url, .. } => Store { token_key: Some(token_key()), ..Store::open(url).await.unwrap() },
            Self::InMemory(memory) => Store::in_memory(memory.clone(), None),
        }
    }

    /// Whether a text is in one of its files; none where these are not ours to look at.
    pub fn holds(&self, text: &str) -> Option<bool> {
        let Self::At { _directory: Some(directory), .. } = self else { return None };
        let has = |path| {
            let content: Vec<u8> = std::fs::read(path).unwrap();
            content.windows(text.len()).any(|window| window == text.as_bytes())
        };
        Some(std::fs::read_dir(directory.path()).unwrap().any(|file| has(file.unwrap().path())))
    }

    pub fn in_memory() -> Self {
        Self::InMemory(Memory::new().unwrap())
    }
}

/// Makes a test on each engine of every named function, which gets a [`Database`] of its own.
macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::testing::Database::sqlite()).await;
            })+
        }
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::testing::Database::in_memory()).await;
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
pub(crate) use on_every_engine;
