//! Tags: which of what has one name is meant, as in `NAME:TAG`.

use std::fmt;
use std::str::FromStr;

/// Which of what has one name is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// What the name stands for by itself.
    Default,
    /// Something that was given a tag.
    Given(GivenTag),
}

/// A tag that somebody gave: `^[a-z0-9._-]{1,128}$`, not `default`, and nothing that has the form of a build's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GivenTag(String);

/// A text that cannot be a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tag {0:?} is not valid: 1 to 128 of a-z, 0-9, '.', '_' and '-', and not the form of a UUID")]
pub struct InvalidTag(String);

const DEFAULT: &str = "default";

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Default => DEFAULT,
            Self::Given(tag) => tag.as_str(),
        }
    }
}

impl GivenTag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text has the form of a UUID.
fn is_uuid(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && text.split('-').all(is_hex)
}

impl FromStr for Tag {
    type Err = InvalidTag;

    /// However it is written: case, and space around it, do not matter.
    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let tag = text.trim().to_ascii_lowercase();
        let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let is_valid = (1..=128).contains(&tag.len()) && tag.bytes().all(is_known) && !is_uuid(&tag);
        match tag.as_str() {
            DEFAULT => Ok(Self::Default),
            _ if is_valid => Ok(Self::Given(GivenTag(tag))),
            _ => Err(InvalidTag(text.chars().take(80).collect())),
        }
    }
}

impl FromStr for GivenTag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        match text.parse()? {
            Tag::Given(tag) => Ok(tag),
            Tag::Default => Err(InvalidTag(text.to_owned())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for GivenTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar_however_they_are_written() {
        for (text, tag) in [("v1", "v1"), (" V1.0-rc_2 ", "v1.0-rc_2"), ("-", "-"), ("Default", "default")] {
            assert_eq!(text.parse::<Tag>().unwrap().to_string(), tag);
        }
        assert_eq!(" DEFAULT".parse(), Ok(Tag::Default));
        let long = "a".repeat(129);
        for bad in ["", " ", "a b", "a:b", "a/b", "ü", "a\0", &long, "01234567-89ab-CDEF-0123-456789abcdef"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        assert!("01234567-89ab-cdef-0123-456789abcdeg".parse::<Tag>().is_ok(), "it is no UUID");
        assert!("default".parse::<GivenTag>().is_err());
    }
}
