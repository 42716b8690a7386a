//! Who may speak with a sandbox's guest agent directly, and the token that shows it.

use std::fmt;

use jiff::Timestamp;
use model::Status;
use sha2::{Digest, Sha256};

use super::kept_token::{KeptToken, NoKeptToken};
use super::keys::hex;
use super::{Sandbox, TrafficToken};

const BYTES: usize = 20;

/// What is recorded of access for whoever knows an id.
pub(super) const OPEN: &str = "open";

/// Who may speak with a guest agent: of a sandbox that is to be made, or as it is kept of one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuestAccess<T = AccessToken> {
    /// Nobody: its sandbox was not made for clients that do.
    #[default]
    Closed,
    /// Whoever knows the sandbox's id.
    Open,
    /// Whoever shows this.
    Token(T),
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

    /// One that is kept.
    pub(super) fn recorded(text: String) -> Self {
        Self(text)
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

impl<T> GuestAccess<T> {
    /// The token, where there is one.
    pub fn token(&self) -> Option<&T> {
        match self {
            Self::Token(token) => Some(token),
            Self::Closed | Self::Open => None,
        }
    }

    /// Whether nobody may.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// The same kind of access for another sandbox.
    pub fn renewed(&self) -> GuestAccess {
        match self {
            Self::Closed => GuestAccess::Closed,
            Self::Open => GuestAccess::Open,
            Self::Token(_) => GuestAccess::Token(AccessToken::random()),
        }
    }
}

impl GuestAccess<KeptToken> {
    pub(super) fn recorded(text: Option<String>) -> Result<Self, NoKeptToken> {
        match text {
            None => Ok(Self::Closed),
            Some(text) if text == OPEN => Ok(Self::Open),
            Some(text) => KeptToken::recorded(text).map(Self::Token),
        }
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
        if !self.guest_access.is_closed() {
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
        assert_eq!(token.traffic_token(), token.traffic_token());
        assert_ne!(token.traffic_token().reveal(), token.reveal());
        assert_eq!(format!("{token:?}"), "AccessToken");
        let renewed = GuestAccess::Token(token.clone()).renewed();
        assert!(renewed.token().is_some_and(|other| *other != token));
        assert_eq!(
            (<GuestAccess>::Open.renewed(), <GuestAccess>::Closed.renewed()),
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
            assert_eq!(sandbox.env, new.env);
            assert_eq!(store.access_token(&sandbox).unwrap().as_ref(), access.token());
            let kind = |access: &GuestAccess| (access.is_closed(), *access == GuestAccess::Open);
            let is_open = matches!(sandbox.guest_access, GuestAccess::Open);
            assert_eq!((sandbox.guest_access.is_closed(), is_open), kind(&access));
            let is_e2b = sandbox.guest_env().contains_key("E2B_SANDBOX");
            assert_eq!(is_e2b, !access.is_closed());
        }
        let listed = store.access_tokens().await.unwrap();
        assert_eq!(listed.iter().map(|(_, token)| token.clone()).collect::<Vec<_>>(), [token]);
        let sandbox = store.get_of_anyone(&listed[0].0).await.unwrap().unwrap();
        store.update(&sandbox, Change::to(Status::Stopped)).await.unwrap().unwrap();
        assert_eq!(store.access_tokens().await.unwrap(), []);
    }
}
