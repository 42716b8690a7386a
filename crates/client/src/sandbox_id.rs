//! The id of a sandbox, checked before it becomes part of an address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A sandbox's id: a DNS label, so it can neither leave its place in a path nor look like an option.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// A text that cannot be a sandbox's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sandbox id {0:?} is not valid: 1 to 63 of a-z, 0-9 and inner dashes")]
pub struct InvalidSandboxId(String);

impl SandboxId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = InvalidSandboxId;

    fn from_str(text: &str) -> Result<Self, InvalidSandboxId> {
        let is_label = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_label { Ok(Self(text.to_owned())) } else { Err(InvalidSandboxId(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = InvalidSandboxId;

    fn try_from(text: String) -> Result<Self, InvalidSandboxId> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> String {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_be_paths_or_options_are_refused() {
        assert_eq!("sb0a1b2c".parse::<SandboxId>().unwrap().as_str(), "sb0a1b2c");
        for text in ["", "..", ".", "-a", "a-", "a/b", "a?b", "A", "a b", "a%2f", &"a".repeat(64)] {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?}");
        }
    }
}
