//! How the password of a sandbox's proxy is kept in its network policy: sealed for its sandbox, as a host needs it again for
//! a child of a fork, and nobody else is told it.

use std::convert::Infallible;

use model::{NetworkPolicy, Password, SandboxId};
use serde::{Deserialize, Serialize};

use super::kept_token::SEALED;
use super::{Sandbox, Store, StoreError, failed};
use crate::token_key::TokenKey;

/// A password as it is recorded: the key's id, and what was sealed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedPassword(String);

impl SealedPassword {
    fn seal(password: &Password, key: &TokenKey, sandbox: &SandboxId) -> Self {
        let sealed = key.seal(password.reveal(), &purpose(sandbox));
        Self(format!("{SEALED}{}:{sealed}", key.id()))
    }

    fn open(&self, key: &TokenKey, sandbox: &SandboxId) -> Result<Password, sqlx::Error> {
        let rest = self.0.strip_prefix(SEALED).and_then(|rest| rest.split_once(':'));
        let (_, sealed) = rest.ok_or_else(|| undecodable("a sealed password has a key and its text"))?;
        let opened = key.open(sealed, &purpose(sandbox)).map_err(undecodable)?;
        Password::new(opened).map_err(undecodable)
    }

    /// What is in the record of a policy whose password is sealed with a key of this id.
    pub(super) fn pattern(key: &str) -> String {
        format!("%\"password\":\"{SEALED}{key}:%")
    }
}

/// No token of the sandbox can take its place.
fn purpose(sandbox: &SandboxId) -> String {
    format!("egress proxy of {sandbox}")
}

fn undecodable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

impl Store {
    /// What is recorded of a policy.
    pub(super) fn recorded_policy(&self, id: &SandboxId, policy: &NetworkPolicy) -> Result<String, sqlx::Error> {
        let seal =
            |password: Password| Ok::<_, sqlx::Error>(Some(SealedPassword::seal(&password, self.token_key()?, id)));
        let kept = policy.clone().with_password(seal)?;
        Ok(serde_json::to_string(&kept).expect("a policy is plain data"))
    }

    /// What a sandbox may reach, as its host is to know it.
    pub fn network_policy(&self, sandbox: &Sandbox) -> Result<NetworkPolicy, StoreError> {
        let open = |kept: SealedPassword| kept.open(self.token_key()?, &sandbox.id).map(Some);
        sandbox.network.clone().with_password(open).map_err(failed("unseal the password of the sandbox's proxy"))
    }
}

/// A policy without the password of its proxy.
pub fn without_password<P>(policy: NetworkPolicy<P>) -> NetworkPolicy<Infallible> {
    match policy.with_password(|_| Ok::<_, Infallible>(None)) {
        Ok(policy) => policy,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use super::*;
    use crate::store::NewSandbox;
    use crate::store::testing::{self, Database};

    testing::on_every_engine!(a_password_is_told_to_hosts_and_stands_nowhere);

    async fn a_password_is_told_to_hosts_and_stands_nowhere(database: Database) {
        let key = TokenKey::random();
        let store = database.open().await.sealing_with(key.clone()).await.unwrap();
        let proxy = r#"{"egress_proxy":{"address":"a.b:1080","username":"u","password":"open sesame"}}"#;
        let network: NetworkPolicy = serde_json::from_str(proxy).unwrap();
        let sandbox =
            store.insert(&NewSandbox { network: network.clone(), ..testing::sandbox("alice") }).await.unwrap();
        assert_eq!(store.network_policy(&sandbox).unwrap(), network);
        let other: NetworkPolicy = serde_json::from_str(&proxy.replace("sesame", "barley")).unwrap();
        assert!(store.set_network(&sandbox, &other).await.unwrap());
        let sandbox = store.get_of_anyone(&sandbox.id).await.unwrap().unwrap();
        assert_eq!(store.network_policy(&sandbox).unwrap(), other);
        assert!(!format!("{sandbox:?}").contains("barley"));
        for password in ["sesame", "barley"] {
            assert_ne!(database.holds(password), Some(true), "{password}");
        }
        let row = sqlx::query("select network from sandboxes where id = $1").bind(sandbox.id.as_str());
        let kept: String = row.fetch_one(&store.pool).await.unwrap().try_get("network").unwrap();
        assert!(kept.contains(&format!(r#""password":"{SEALED}{}:"#, key.id())), "{kept}");
        // It needs its key, and is no other sandbox's.
        assert!(database.open().await.sealing_with(TokenKey::random()).await.is_err());
        let second = store.insert(&testing::sandbox("alice")).await.unwrap();
        let exchanged = Sandbox { id: second.id, ..sandbox };
        assert!(store.network_policy(&exchanged).is_err());
    }
}
