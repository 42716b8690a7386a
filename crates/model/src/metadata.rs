//! What an owner says of a sandbox: names and values, given when it is created and never changed.

use std::collections::BTreeMap;

/// Names that the system fills in itself.
const RESERVED: [&str; 4] = ["kernel_version", "vmm_version", "agent_version", "envd_version"];

/// At most [`Metadata::MAX_PAIRS`] names with their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(BTreeMap<String, String>);

/// Metadata that no sandbox can have. The text names the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// Too many of them.
    #[error("metadata has {0} members; at most {max} are possible", max = Metadata::MAX_PAIRS)]
    TooMany(usize),
    /// A name that is none.
    #[error(
        "metadata name {0:?} is not valid: 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit"
    )]
    Name(String),
    /// A name that is not the owner's to give.
    #[error("metadata name {0:?} is reserved for the system")]
    Reserved(String),
    /// A value that is too long or cannot be kept.
    #[error(
        "the metadata value of {0:?} is not valid: at most {max} characters, none of them NUL",
        max = Metadata::MAX_VALUE
    )]
    Value(String),
    /// A name or value that is too long or cannot be kept, where both may be any text.
    #[error(
        "metadata of {0:?} is not valid: name and value have at most {max} bytes, none of them NUL, the name at least one",
        max = Metadata::MAX_TEXT
    )]
    Text(String),
}

impl Metadata {
    /// Members that one sandbox may have.
    pub const MAX_PAIRS: usize = 20;
    /// Characters of a value.
    pub const MAX_VALUE: usize = 64;
    /// Bytes of a name and of a value, where both may be any text.
    pub const MAX_TEXT: usize = 4096;

    /// Metadata of a client that may choose any text for names and values, within bounds.
    pub fn of_any_text(pairs: BTreeMap<String, String>) -> Result<Self, InvalidMetadata> {
        if pairs.len() > Self::MAX_PAIRS {
            return Err(InvalidMetadata::TooMany(pairs.len()));
        }
        let is_text = |text: &str| text.len() <= Self::MAX_TEXT && !text.contains('\0');
        match pairs.iter().find(|(name, value)| name.is_empty() || !is_text(name) || !is_text(value)) {
            Some((name, _)) => Err(InvalidMetadata::Text(name.chars().take(80).collect())),
            None => Ok(Self(pairs)),
        }
    }

    /// Metadata that was checked when it was recorded.
    pub fn recorded(pairs: BTreeMap<String, String>) -> Self {
        Self(pairs)
    }

    /// The pairs, in the order of their names.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The names that only the system fills in.
    pub fn reserved() -> &'static [&'static str] {
        &RESERVED
    }
}

impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = InvalidMetadata;

    fn try_from(pairs: BTreeMap<String, String>) -> Result<Self, InvalidMetadata> {
        if pairs.len() > Self::MAX_PAIRS {
            return Err(InvalidMetadata::TooMany(pairs.len()));
        }
        pairs.iter().try_for_each(|(name, value)| check(name, value))?;
        Ok(Self(pairs))
    }
}

fn check(name: &str, value: &str) -> Result<(), InvalidMetadata> {
    let excerpt = || name.chars().take(80).collect();
    let mut bytes = name.bytes();
    let is_name = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name.len() <= 64;
    if !is_name {
        return Err(InvalidMetadata::Name(excerpt()));
    }
    if RESERVED.contains(&name) {
        return Err(InvalidMetadata::Reserved(excerpt()));
    }
    if value.contains('\0') || value.chars().count() > Metadata::MAX_VALUE {
        return Err(InvalidMetadata::Value(excerpt()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Metadata, InvalidMetadata> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        pairs.collect::<BTreeMap<_, _>>().try_into()
    }

    #[test]
    fn names_and_values_have_limits() {
        for good in [("a", ""), ("0", "x"), ("App.name_1-b", "ü b=c"), (&*"n".repeat(64), &*"ü".repeat(64))] {
            assert!(parse(&[good]).is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "_a", ".a", "a b", "a=b", "ü", "a\0", "a/b", &"n".repeat(65)] {
            assert!(matches!(parse(&[(bad, "x")]), Err(InvalidMetadata::Name(_))), "{bad:?}");
        }
        for bad in ["a\0", &"v".repeat(65)] {
            assert!(matches!(parse(&[("a", bad)]), Err(InvalidMetadata::Value(_))), "{bad:?}");
        }
        for reserved in Metadata::reserved() {
            assert!(matches!(parse(&[(reserved, "1")]), Err(InvalidMetadata::Reserved(_))));
        }
    }

    #[test]
    fn where_any_text_will_do_only_what_cannot_be_kept_is_refused() {
        let parse = |name: &str, value: &str| Metadata::of_any_text([(name.to_owned(), value.to_owned())].into());
        let long = "x".repeat(Metadata::MAX_TEXT);
        for (name, value) in [("a b", "c/d"), ("ü=&", ""), (&*long, &*long)] {
            assert!(parse(name, value).is_ok(), "{name}");
        }
        let longer = format!("{long}x");
        for (name, value) in [("", "x"), ("a\0", "x"), ("a", "\0"), (&*longer, ""), ("a", &*longer)] {
            assert!(matches!(parse(name, value), Err(InvalidMetadata::Text(_))), "{name}");
        }
    }

    #[test]
    fn twenty_members_are_enough_for_everybody() {
        let pairs = |count: usize| (0..count).map(|n| (format!("n{n}"), String::new())).collect::<BTreeMap<_, _>>();
        assert_eq!(Metadata::try_from(pairs(20)).unwrap().pairs().len(), 20);
        assert_eq!(Metadata::try_from(pairs(21)), Err(InvalidMetadata::TooMany(21)));
    }
}
