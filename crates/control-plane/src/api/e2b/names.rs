//! What templates and snapshots are called here: `name` or `sandpiper/name`, each also with a tag. A snapshot without a
//! name goes by its id.

use std::fmt;

use model::{SnapshotName, SnapshotRef, Tag};
use sha2::{Digest, Sha256};

use super::super::error::ApiError;
use super::pages::shortened;
use crate::store::hex;

/// Whose names all of them are.
const NAMESPACE: &str = "sandpiper";

/// What a client calls something that sandboxes are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its name or id.
    pub name: SnapshotRef,
    /// Which of what has that name; where nothing is said, who reads it decides what that means.
    pub tag: Option<Tag>,
}

impl Reference {
    /// Reads one. None where nothing can be called so.
    pub fn read(text: &str) -> Option<Self> {
        let (name, tag) = split(text);
        let tag = tag.map(str::parse).transpose().ok()?;
        Some(Self { name: own(name)?.parse().ok()?, tag })
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(name, tag)| (name, Some(tag)))
}

/// A name without whose it is, if it can be this server's.
fn own(name: &str) -> Option<&str> {
    match name.trim().split_once('/') {
        Some((NAMESPACE, name)) => Some(name),
        Some(_) => None,
        None => Some(name.trim()),
    }
}

/// What a new snapshot shall be called.
pub fn new_name(text: &str) -> Result<(SnapshotName, Tag), ApiError> {
    let (name, tag) = split(text);
    let name = own(name).ok_or_else(|| {
        ApiError::invalid_request(format!("a snapshot's name is NAME or {NAMESPACE}/NAME, also with a tag (NAME:TAG)"))
    })?;
    let name =
        name.parse().map_err(|error: model::InvalidSnapshotName| ApiError::invalid_request(error.to_string()))?;
    Ok((name, tag.map_or(Ok(Tag::Default), new_tag)?))
}

/// A tag that a client gives.
pub fn new_tag(text: &str) -> Result<Tag, ApiError> {
    text.parse().map_err(|error: model::InvalidTag| ApiError::invalid_request(error.to_string()))
}

/// There is no such template for the caller.
pub fn no_template(text: &str) -> ApiError {
    ApiError::not_found(format!("template '{}' not found", shortened(text)))
}

/// The full name of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name or id.
    pub name: SnapshotRef,
    /// Its tag.
    pub tag: Tag,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            SnapshotRef::Name(name) => write!(f, "{NAMESPACE}/{name}:{}", self.tag),
            SnapshotRef::Id(id) => write!(f, "{id}:{}", self.tag),
        }
    }
}

/// The names that go with a name or id: none with an id.
pub fn aliases(name: &SnapshotRef) -> Vec<String> {
    match name {
        SnapshotRef::Name(name) => vec![name.to_string()],
        SnapshotRef::Id(_) => Vec::new(),
    }
}

/// The same with whose they are.
pub fn names(name: &SnapshotRef) -> Vec<String> {
    aliases(name).iter().map(|name| format!("{NAMESPACE}/{name}")).collect()
}

/// A UUID that is always the same for the same text.
pub fn uuid(text: &str) -> String {
    let hex = hex(&Sha256::digest(text)[..16]);
    // Of the version and variant for ids that somebody made in a way of their own.
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_tag_are_told_from_what_all_names_have() {
        let read = |text: &str| Reference::read(text).map(|read| (read.name.to_string(), read.tag));
        let base = |tag: Option<&str>| Some(("base".to_owned(), tag.map(|tag| tag.parse().unwrap())));
        for (text, expect) in [
            ("base", base(None)),
            (" sandpiper/base ", base(None)),
            ("base:default", base(Some("default"))),
            ("sandpiper/base: V2", base(Some("v2"))),
        ] {
            assert_eq!(read(text), expect, "{text}");
        }
        for text in ["", ":default", "other/base", "base:", "base:a b", "base:a:b", "sandpiper/", "a/b/c", "a b"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_new_snapshot_has_a_name_and_a_tag_that_can_be_one() {
        let named = |text: &str| new_name(text).map(|(name, tag)| format!("{name}:{tag}")).ok();
        assert_eq!(named("my-snap").as_deref(), Some("my-snap:default"));
        assert_eq!(named("sandpiper/my-snap:V2").as_deref(), Some("my-snap:v2"));
        for bad in ["a b", "other/x", "x:", "x:01234567-89ab-cdef-0123-456789abcdef", ":v1", "sn01234567890123456789"] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_uuid_has_the_form_of_one_and_is_always_the_same() {
        let id = uuid("base");
        assert_eq!(id, uuid("base"));
        assert_ne!(id, uuid("minimal"));
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }
}
