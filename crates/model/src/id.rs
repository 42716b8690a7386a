//! Identifiers as newtypes, so that one kind cannot be passed for another. Each checks its grammar where it enters;
//! after that it is safe in file names, command lines, interface names and DNS labels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// `length` characters of `[a-z0-9]` from the kernel's random source.
fn random_text(length: usize) -> String {
    let mut text = String::with_capacity(length);
    let mut bytes = [0u8; 64];
    while text.len() < length {
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        // 252 is the largest multiple of 36 in a byte: what lies above would favour the first letters.
        let fair = bytes.iter().filter(|byte| **byte < 252);
        text.extend(fair.map(|byte| char::from(ALPHABET[usize::from(byte % 36)])).take(length - text.len()));
    }
    text
}

/// Cuts a long text for an error message: ids come from outside and may be megabytes.
fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $is_valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let is_valid: fn(&str) -> bool = $is_valid;
                if is_valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { kind: $kind, text: excerpt(text), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether it is a label of the domain name system, of lower-case letters, digits and inner dashes.
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_lower_alphanumeric(*byte) || *byte == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

id! {
    /// A sandbox. Ours are `sb` and 20 random characters; other callers of the host agent may choose any DNS label.
    SandboxId, "sandbox id", "1 to 63 of a-z, 0-9 and inner dashes", is_dns_label
}

id! {
    /// A snapshot of a sandbox: `sn` and 20 random characters. People call it by a name, which is not this.
    SnapshotId, "snapshot id", "1 to 63 of a-z, 0-9 and inner dashes", is_dns_label
}

id! {
    /// One installation (data directory) on a machine. It is part of every name made there, so it is short.
    InstanceId, "instance id", "6 of a-z and 0-9",
    |text| text.len() == 6 && text.bytes().all(is_lower_alphanumeric)
}

id! {
    /// A machine that runs sandboxes, as the control plane knows it.
    HostId, "host id", "1 to 63 of a-z, 0-9 and inner dashes", is_dns_label
}

id! {
    /// Who a sandbox belongs to. Empty where the server asks for no key.
    OwnerId, "owner id", "at most 63 of a-z, 0-9 and inner dashes", |text| text.is_empty() || is_dns_label(text)
}

impl SandboxId {
    /// A new, unguessable id (103 bits).
    pub fn random() -> Self {
        Self(format!("sb{}", random_text(20)))
    }
}

impl SnapshotId {
    /// A new, unguessable id (103 bits).
    pub fn random() -> Self {
        Self(format!("sn{}", random_text(20)))
    }
}

impl InstanceId {
    /// A new id, unlikely to be in use by another installation on the same machine.
    pub fn random() -> Self {
        Self(random_text(6))
    }
}

impl OwnerId {
    /// The owner of everything on a server that asks for no key.
    pub fn nobody() -> Self {
        Self(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_sandbox_ids_are_labels_and_differ() {
        let (one, two) = (SandboxId::random(), SandboxId::random());
        assert_ne!(one, two);
        assert_eq!(one.as_str().len(), 22);
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
    }

    #[test]
    fn ids_that_could_be_paths_or_options_are_refused() {
        for text in ["", "-a", "a-", "a/b", "..", "a.b", "A", "a b", "a\0", "ä", &"a".repeat(64)] {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_a_long_text() {
        let error = "x/".repeat(100_000).parse::<SandboxId>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn whatever_parses_is_a_dns_label(text in "\\PC{0,70}") {
            if let Ok(id) = text.parse::<SandboxId>() {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
                prop_assert!(id.as_str().len() <= 63 && !id.as_str().starts_with('-'));
            }
        }
    }
}
