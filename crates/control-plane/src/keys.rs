//! API keys for whoever administers a server: works on the records, and needs no server.

use model::OwnerId;

use crate::store::{ApiKey, OpenError, Store, StoreError};
use crate::store_url::StoreUrl;

/// The keys in a database.
#[derive(Debug, Clone)]
pub struct Keys(Store);

impl Keys {
    /// Those in this database, which is made when it is missing.
    pub async fn open(store: &StoreUrl) -> Result<Self, OpenError> {
        Store::open(store).await.map(Self)
    }

    /// Makes a key for `owner`, or for a new owner of its own. The text is the key, and is never shown again.
    pub async fn create(&self, name: &str, owner: Option<OwnerId>) -> Result<(ApiKey, String), StoreError> {
        self.0.create_key(name, owner).await
    }

    /// Every key, also revoked ones, the newest first.
    pub async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.0.keys().await
    }

    /// Revokes a key; returns whether there is one.
    pub async fn revoke(&self, id: &str) -> Result<bool, StoreError> {
        self.0.revoke_key(id).await
    }

    /// Whether a server with these records asks for a key.
    pub async fn are_asked_for(&self) -> Result<bool, StoreError> {
        self.0.asks_for_keys().await
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.0.close().await;
    }
}
