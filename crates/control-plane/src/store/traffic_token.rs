//! Tokens for the traffic of private sandboxes: made once, kept as hashes.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;

use super::keys::{hash, hex};

const BYTES: usize = 20;

/// What callers of a private sandbox's ports must show. Never written anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct TrafficToken(String);

/// What is recorded of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficTokenHash(String);

/// A text that is no token.
#[derive(Debug, thiserror::Error)]
#[error("a traffic token is {} hexadecimal digits", 2 * BYTES)]
pub struct InvalidTrafficToken;

impl TrafficToken {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        Self(hex(&bytes))
    }

    /// What is recorded of it.
    pub fn hash(&self) -> TrafficTokenHash {
        TrafficTokenHash(hash(&self.0))
    }

    /// The token itself, for whoever made the sandbox.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TrafficToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficToken")
    }
}

impl FromStr for TrafficToken {
    type Err = InvalidTrafficToken;

    fn from_str(text: &str) -> Result<Self, InvalidTrafficToken> {
        let is_hex = text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex { Ok(Self(text.to_owned())) } else { Err(InvalidTrafficToken) }
    }
}

impl TrafficTokenHash {
    /// Whether this was made of `token`.
    pub fn is_of(&self, token: &TrafficToken) -> bool {
        self.0.as_bytes().ct_eq(hash(&token.0).as_bytes()).into()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn recorded(text: String) -> Self {
        Self(text)
    }
}
