//! Names of templates. They become parts of paths, so the grammar is strict and is checked everywhere a name enters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A template's name: `^[a-z0-9][a-z0-9._-]{0,63}$`. Never `.` or `..`, never a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(String);

/// A text that cannot be a template's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template name {0:?} is not valid: 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit")]
pub struct InvalidTemplateName(String);

impl TemplateName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TemplateName {
    type Err = InvalidTemplateName;

    fn from_str(text: &str) -> Result<Self, InvalidTemplateName> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let is_valid = (1..=64).contains(&bytes.len())
            && alphanumeric(bytes[0])
            && bytes.iter().all(|byte| alphanumeric(*byte) || b"._-".contains(byte));
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidTemplateName(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for TemplateName {
    type Error = InvalidTemplateName;

    fn try_from(text: String) -> Result<Self, InvalidTemplateName> {
        text.parse()
    }
}

impl From<TemplateName> for String {
    fn from(name: TemplateName) -> String {
        name.0
    }
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in ["minimal", "python311", "a", "0", "a.b_c-d", &"a".repeat(64)] {
            assert_eq!(good.parse::<TemplateName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "../etc", "a/b", "-a", "_a", ".a", "A", "a b", "a\n", "a\0b", "ü", &"a".repeat(65)]
        {
            assert!(bad.parse::<TemplateName>().is_err(), "{bad:?}");
        }
    }
}
