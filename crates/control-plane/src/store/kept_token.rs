//! How a sandbox's access token is kept: its digest, by which callers are known, and the token itself sealed for its
//! sandbox, since its owner is told it again.

use std::fmt;

use model::SandboxId;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::AccessToken;
use super::keys::hex;
use crate::token_key::{NotSealed, TokenKey};

/// What the record of a sealed token begins with, and the form of what follows.
pub(super) const SEALED: &str = "sealed:1:";

/// A token as it is recorded.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptToken {
    digest: String,
    form: Form,
}

#[derive(Clone, PartialEq, Eq)]
enum Form {
    Sealed {
        key: String,
        sealed: String,
    },
    /// As versions before kept it, until the next start.
    Clear(AccessToken),
}

/// Why a recorded token cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// Another key is needed.
    #[error("the token of sandbox {sandbox} is sealed with the key {needed}, and not with {ours}")]
    OtherKey {
        /// Whose it is.
        sandbox: SandboxId,
        /// The key that it needs.
        needed: String,
        /// The key that there is.
        ours: String,
    },
    /// The record was tampered with, or is another sandbox's.
    #[error("the token of sandbox {sandbox} cannot be unsealed")]
    Broken {
        /// Whose it is.
        sandbox: SandboxId,
        /// Why.
        source: NotSealed,
    },
}

/// A text that no version has recorded.
#[derive(Debug, thiserror::Error)]
#[error("a sealed token has a key, a digest and its text")]
pub struct NoKeptToken;

impl KeptToken {
    /// Whether a caller has shown it.
    pub fn is(&self, given: &[u8]) -> bool {
        self.digest.as_bytes().ct_eq(digest(given).as_bytes()).into()
    }

    /// The token itself.
    pub fn reveal(&self, key: &TokenKey, sandbox: &SandboxId) -> Result<AccessToken, UnsealError> {
        match &self.form {
            Form::Clear(token) => Ok(token.clone()),
            Form::Sealed { key: needed, .. } if needed != key.id() => Err(UnsealError::OtherKey {
                sandbox: sandbox.clone(),
                needed: needed.clone(),
                ours: key.id().to_owned(),
            }),
            Form::Sealed { sealed, .. } => {
                let broken = |source| UnsealError::Broken { sandbox: sandbox.clone(), source };
                key.open(sealed, sandbox.as_str()).map(AccessToken::recorded).map_err(broken)
            }
        }
    }

    /// What is recorded of a token.
    pub(super) fn seal(token: &AccessToken, key: &TokenKey, sandbox: &SandboxId) -> String {
        let sealed = key.seal(token.reveal(), sandbox.as_str());
        format!("{SEALED}{}:{}:{sealed}", key.id(), digest(token.reveal().as_bytes()))
    }

    /// The token that a record holds.
    pub(super) fn recorded(text: String) -> Result<Self, NoKeptToken> {
        let Some(rest) = text.strip_prefix(SEALED) else {
            return Ok(Self { digest: digest(text.as_bytes()), form: Form::Clear(AccessToken::recorded(text)) });
        };
        let parts: Vec<&str> = rest.split(':').collect();
        let [key, digest, sealed] = parts[..] else { return Err(NoKeptToken) };
        let form = Form::Sealed { key: key.to_owned(), sealed: sealed.to_owned() };
        Ok(Self { digest: digest.to_owned(), form })
    }
}

impl fmt::Debug for KeptToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptToken")
    }
}

fn digest(token: &[u8]) -> String {
    hex(&Sha256::digest(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_token_is_known_and_told_with_its_key_and_for_its_sandbox_alone() {
        let (key, other) = (TokenKey::random(), TokenKey::random());
        let (one, two) = (SandboxId::random(), SandboxId::random());
        let token = AccessToken::random();
        let text = KeptToken::seal(&token, &key, &one);
        assert!(!text.contains(token.reveal()));
        let kept = KeptToken::recorded(text).unwrap();
        assert!(
            kept.is(token.reveal().as_bytes()) && !kept.is(b"") && !kept.is(AccessToken::random().reveal().as_bytes())
        );
        assert_eq!(kept.reveal(&key, &one).unwrap(), token);
        assert!(matches!(kept.reveal(&key, &two), Err(UnsealError::Broken { .. })), "moved to another row");
        let error = kept.reveal(&other, &one).unwrap_err().to_string();
        assert!(error.contains(key.id()) && error.contains(other.id()), "{error}");
        assert_eq!(format!("{kept:?}"), "KeptToken");
    }

    #[test]
    fn what_an_earlier_version_recorded_is_a_token_and_what_nobody_recorded_is_none() {
        let token = AccessToken::random();
        let kept = KeptToken::recorded(token.reveal().to_owned()).unwrap();
        assert!(kept.is(token.reveal().as_bytes()));
        assert_eq!(kept.reveal(&TokenKey::random(), &SandboxId::random()).unwrap(), token);
        assert!(KeptToken::recorded(format!("{SEALED}key:digest")).is_err());
    }
}
