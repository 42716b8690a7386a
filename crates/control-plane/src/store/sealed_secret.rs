//! How what is secret of a sandbox's network policy is kept, which is the password of its proxy and the values of the headers
//! that its requests get: sealed for its sandbox, as a host needs it again for a child of a fork, and nobody else is told it.

use model::{NetworkPolicy, SandboxId, Secret};
use serde::{Deserialize, Serialize};

use super::kept_token::SEALED;
use super::{Sandbox, Store, StoreError, failed};
use crate::token_key::TokenKey;

/// A secret as it is recorded: the key's id, and what was sealed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedSecret(String);

impl SealedSecret {
    fn seal(secret: &Secret, key: &TokenKey, sandbox: &SandboxId) -> Self {
        let sealed = key.seal(secret.reveal(), &purpose(sandbox));
        Self(format!("{SEALED}{}:{sealed}", key.id()))
    }

    fn open(&self, key: &TokenKey, sandbox: &SandboxId) -> Result<Secret, sqlx::Error> {
        let rest = self.0.strip_prefix(SEALED).and_then(|rest| rest.split_once(':'));
        let (_, sealed) = rest.ok_or_else(|| undecodable("a sealed secret has a key and its text"))?;
        key.open(sealed, &purpose(sandbox)).map(Secret::kept).map_err(undecodable)
    }

    /// What is in the record of a policy of which something is sealed with a key of this id.
    pub(super) fn pattern(key: &str) -> String {
        format!("%\":\"{SEALED}{key}:%")
    }
}

/// No token of the sandbox can take its place.
fn purpose(sandbox: &SandboxId) -> String {
    format!("network of {sandbox}")
}

fn undecodable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

impl Store {
    /// What is recorded of a policy.
    pub(super) fn recorded_policy(&self, id: &SandboxId, policy: &NetworkPolicy) -> Result<String, sqlx::Error> {
        let seal = |secret: Secret| Ok::<_, sqlx::Error>(SealedSecret::seal(&secret, self.token_key()?, id));
        let kept = policy.clone().with_secrets(seal)?;
        Ok(serde_json::to_string(&kept).expect("a policy is plain data"))
    }

    /// What a sandbox may reach, as its host is to know it.
    pub fn network_policy(&self, sandbox: &Sandbox) -> Result<NetworkPolicy, StoreError> {
        let open = |kept: SealedSecret| kept.open(self.token_key()?, &sandbox.id);
        sandbox.network.clone().with_secrets(open).map_err(failed("unseal the secrets of the sandbox's network"))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::store::NewSandbox;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(secrets_are_told_to_hosts_and_stand_nowhere);

    async fn secrets_are_told_to_hosts_and_stand_nowhere(database: Database) {
        let key = TokenKey::random();
        let store = database.open().await.sealing_with(key.clone()).await.unwrap();
        let written = r#"{"egress_proxy":{"address":"a.b:1080","username":"u","password":"open sesame"},"request_headers":{"a.b":{"x-key":"open caraway"}}}"#;
        let network: NetworkPolicy = serde_json::from_str(written).unwrap();
        let sandbox =
            store.insert(&NewSandbox { network: network.clone(), ..testing::sandbox("alice") }).await.unwrap();
        assert_eq!(store.network_policy(&sandbox).unwrap(), network);
        let other: NetworkPolicy =
            serde_json::from_str(&written.replace("sesame", "barley").replace("caraway", "aniseed")).unwrap();
        assert!(store.set_network(&sandbox, &other).await.unwrap());
        let sandbox = store.get_of_anyone(&sandbox.id).await.unwrap().unwrap();
        assert_eq!(store.network_policy(&sandbox).unwrap(), other);
        let shown = format!("{sandbox:?}");
        for secret in ["sesame", "barley", "caraway", "aniseed"] {
            assert_ne!(database.holds(secret), Some(true), "{secret}");
            assert!(!shown.contains(secret), "{secret}");
        }
        let row = sqlx::query("select network from sandboxes where id = $1").bind(sandbox.id.as_str());
        let kept: String = row.fetch_one(&store.pool).await.unwrap().try_get("network").unwrap();
        for member in ["password", "x-key"] {
            assert!(kept.contains(&format!(r#""{member}":"{SEALED}{}:"#, key.id())), "{kept}");
        }
        // It needs its key, and is no other sandbox's.
        assert!(database.open().await.sealing_with(TokenKey::random()).await.is_err());
        let second = store.insert(&testing::sandbox("alice")).await.unwrap();
        let exchanged = Sandbox { id: second.id, ..sandbox };
        assert!(store.network_policy(&exchanged).is_err());
    }
}
