//! Who may speak with a sandbox's guest agent directly, and the token that shows it.

use std::fmt;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::Row;
use subtle::ConstantTimeEq;

use model::{SandboxId, Status};

use super::keys::hex;
use super::{Sandbox, Store, StoreError, TrafficToken, failed};

const BYTES: usize = 20;
const OPEN: &str = "open";

/// Who may speak with a guest agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuestAccess {
    /// Nobody: its sandbox was not made for clients that do.
    #[default]
    Closed,
    /// Whoever knows the sandbox's id.
    Open,
    /// Whoever shows this.
    Token(AccessToken),
}

/// What callers of a guest agent show. Told to the sandbox's owner, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        Self(hex(&bytes))
    }

    /// The token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a caller has shown it.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// The token for the traffic of the same sandbox: its owner is told both, and whoever has that one cannot tell this.
    pub fn traffic_token(&self) -> TrafficToken {
        let digest = Sha256::digest(format!("traffic:{}", self.0));
        hex(&digest[..BYTES]).parse().expect("it has the form of one")
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

impl GuestAccess {
    /// The token, where there is one.
    pub fn token(&self) -> Option<&AccessToken> {
        match self {
            Self::Token(token) => Some(token),
            Self::Closed | Self::Open => None,
        }
    }

    /// The same kind of access for another sandbox.
    pub fn renewed(&self) -> Self {
        match self {
            Self::Token(_) => Self::Token(AccessToken::random()),
            other => other.clone(),
        }
    }

    pub(super) fn as_recorded(&self) -> Option<&str> {
        match self {
            Self::Closed => None,
            Self::Open => Some(OPEN),
            Self::Token(token) => Some(token.reveal()),
        }
    }

    pub(super) fn recorded(text: Option<String>) -> Self {
        match text {
            None => Self::Closed,
            Some(text) if text == OPEN => Self::Open,
            Some(token) => Self::Token(AccessToken(token)),
        }
    }
}

impl Store {
    /// The tokens of all sandboxes that may run or be woken: for a call that shows a signature made with one of them and
    /// does not say of which sandbox.
    pub async fn access_tokens(&self) -> Result<Vec<(SandboxId, AccessToken)>, StoreError> {
        let tokens = async {
            let rows = sqlx::query(
                "select id, guest_access from sandboxes \
                 where guest_access is not null and guest_access <> $1 and status not in ('stopped', 'error')",
            )
            .bind(OPEN)
            .fetch_all(&self.pool)
            .await?;
            rows.iter()
                .map(|row| Ok((super::record::parse(row, "id")?, AccessToken(row.try_get("guest_access")?))))
                .collect::<Result<Vec<_>, sqlx::Error>>()
        };
        tokens.await.map_err(failed("read the sandboxes' tokens"))
    }
}

impl Sandbox {
    /// Whether there is something of it that its owner can use, now or after waking it.
    pub fn is_there(&self) -> bool {
        match self.status {
            Status::Stopping | Status::Error => false,
            Status::Stopped => self.keeps_disk,
            _ => true,
        }
    }

    /// Environment of its processes: what its owner gave, and for programs that expect it, what it is.
    pub fn guest_env(&self) -> std::collections::BTreeMap<String, String> {
        let mut env = self.env.clone();
        if self.guest_access != GuestAccess::Closed {
            let own = [
                ("E2B_SANDBOX", "true"),
                ("E2B_SANDBOX_ID", self.id.as_str()),
                ("E2B_TEMPLATE_ID", self.template.as_str()),
            ];
            env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        env
    }

    /// Whether its time is over.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.ends_at.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, Database};
    use crate::store::{Change, NewSandbox};

    testing::on_every_engine!(access_is_read_back_and_tokens_of_what_has_ended_are_not_listed);

    #[test]
    fn a_token_is_its_own_and_its_traffic_token_is_another_one() {
        let token = AccessToken::random();
        assert!(token.is(token.reveal().as_bytes()) && !token.is(b"") && !token.is(b"0"));
        assert_eq!(token.traffic_token(), token.traffic_token());
        assert_ne!(token.traffic_token().reveal(), token.reveal());
        assert_eq!(format!("{token:?}"), "AccessToken");
        let renewed = GuestAccess::Token(token.clone()).renewed();
        assert!(renewed.token().is_some_and(|other| *other != token));
        assert_eq!(
            (GuestAccess::Open.renewed(), GuestAccess::Closed.renewed()),
            (GuestAccess::Open, GuestAccess::Closed)
        );
    }

    async fn access_is_read_back_and_tokens_of_what_has_ended_are_not_listed(database: Database) {
        let store = database.open().await;
        let token = AccessToken::random();
        for access in [GuestAccess::Closed, GuestAccess::Open, GuestAccess::Token(token.clone())] {
            let env = [("A".to_owned(), "b".to_owned())].into();
            let new = NewSandbox { guest_access: access.clone(), env, ..testing::sandbox("alice") };
            let sandbox = store.insert(&new).await.unwrap();
            assert_eq!((&sandbox.guest_access, &sandbox.env), (&access, &new.env));
            let is_e2b = sandbox.guest_env().contains_key("E2B_SANDBOX");
            assert_eq!(is_e2b, access != GuestAccess::Closed);
        }
        let listed = store.access_tokens().await.unwrap();
        assert_eq!(listed.iter().map(|(_, token)| token.clone()).collect::<Vec<_>>(), [token]);
        let sandbox = store.get_of_anyone(&listed[0].0).await.unwrap().unwrap();
        store.update(&sandbox, Change::to(Status::Stopped)).await.unwrap().unwrap();
        assert_eq!(store.access_tokens().await.unwrap(), []);
    }
}
