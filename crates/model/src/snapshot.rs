//! Snapshots: what people call them, what kinds there are, and the states that one goes through.
//!
//! ```text
//!  pending ──captured──▶ ready ──▶ deleting ──▶ gone
//!     └──────── failed, or given up ──▲
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SnapshotId;

/// What its owner calls a snapshot: `^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`, and nothing that looks like a snapshot's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotName(String);

/// A text that cannot be a snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "snapshot name {0:?} is not valid: 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit, and not \
     the form of an id"
)]
pub struct InvalidSnapshotName(String);

/// How a caller points at a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SnapshotRef {
    /// By its id, which every snapshot has.
    Id(SnapshotId),
    /// By its name.
    Name(SnapshotName),
}

/// Where a snapshot stands between its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotStatus {
    /// Being captured.
    Pending,
    /// Sandboxes can be made from it.
    Ready,
    /// Being removed from its host.
    Deleting,
}

/// What a snapshot is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SnapshotKind {
    /// Kept until its owner deletes it.
    Named,
    /// What a fork's children come from. Nobody sees it, and it ends with the fork.
    Fork,
}

impl SnapshotName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text has the form of [`SnapshotId::random`]: no name has it, so that the two are never mistaken.
fn is_id(text: &str) -> bool {
    text.len() == 22
        && text.starts_with("sn")
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl FromStr for SnapshotName {
    type Err = InvalidSnapshotName;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotName> {
        let bytes = text.as_bytes();
        let is_valid = (1..=64).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
            && !is_id(text);
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidSnapshotName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for SnapshotName {
    type Error = InvalidSnapshotName;

    fn try_from(text: String) -> Result<Self, InvalidSnapshotName> {
        text.parse()
    }
}

impl From<SnapshotName> for String {
    fn from(name: SnapshotName) -> String {
        name.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SnapshotRef {
    type Err = InvalidSnapshotName;

    fn from_str(text: &str) -> Result<Self, InvalidSnapshotName> {
        match text.parse() {
            Ok(id) if is_id(text) => Ok(Self::Id(id)),
            _ => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A text that names no state or no kind of snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that a snapshot can be")]
pub struct UnknownSnapshotWord(String);

macro_rules! words {
    ($name:ident, $($variant:ident => $word:literal),+) => {
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in the API and in the store.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownSnapshotWord;

            fn from_str(text: &str) -> Result<Self, UnknownSnapshotWord> {
                let found = Self::ALL.iter().find(|word| word.as_str() == text);
                found.copied().ok_or_else(|| UnknownSnapshotWord(text.chars().take(80).collect()))
            }
        }
    };
}

words!(SnapshotStatus, Pending => "pending", Ready => "ready", Deleting => "deleting");
words!(SnapshotKind, Named => "named", Fork => "fork");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_and_are_no_ids() {
        for good in ["base", "My.Snap_1-b", "0", &"a".repeat(64), "sn1", "sandbox-of-monday-12345"] {
            assert_eq!(good.parse::<SnapshotName>().unwrap().as_str(), good);
            assert!(matches!(good.parse(), Ok(SnapshotRef::Name(_))));
        }
        let id = SnapshotId::random();
        for bad in ["", ".", "-a", "_a", "a/b", "../a", "a b", "a\0", "ü", &"a".repeat(65), id.as_str()] {
            assert!(bad.parse::<SnapshotName>().is_err(), "{bad:?}");
        }
        assert_eq!(id.as_str().parse(), Ok(SnapshotRef::Id(id.clone())));
        assert_eq!(SnapshotRef::Id(id.clone()).to_string(), id.as_str());
    }

    #[test]
    fn words_match_both_ways() {
        for status in SnapshotStatus::ALL {
            assert_eq!(status.to_string().parse(), Ok(*status));
        }
        for kind in SnapshotKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
        assert!("gone".parse::<SnapshotStatus>().is_err());
    }
}
