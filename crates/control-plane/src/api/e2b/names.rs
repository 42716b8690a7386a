//! What templates and snapshots are called here: `name`, `sandpiper/name`, each also with `:default`, which is the only
//! tag that there is. A snapshot without a name goes by its id.

use model::SnapshotName;
use sha2::{Digest, Sha256};

use super::super::error::ApiError;
use crate::store::{Snapshot, hex};

/// Whose names all of them are.
const NAMESPACE: &str = "sandpiper";

/// The tag of everything.
pub const TAG: &str = "default";

/// What a client calls a template, without what is the same for all. None where nothing can be called so.
pub fn bare(text: &str) -> Option<&str> {
    let (name, tag) = text.split_once(':').unwrap_or((text, TAG));
    let name = match name.split_once('/') {
        Some((NAMESPACE, name)) => name,
        Some(_) => return None,
        None => name,
    };
    (tag == TAG && !name.is_empty()).then_some(name)
}

/// The same for what shall become the name of a snapshot.
pub fn new_name(text: &str) -> Result<SnapshotName, ApiError> {
    let name = bare(text).ok_or_else(|| {
        ApiError::invalid_request(format!("a snapshot's name is NAME, {NAMESPACE}/NAME or NAME:{TAG}"))
    })?;
    name.parse().map_err(|error: model::InvalidSnapshotName| ApiError::invalid_request(error.to_string()))
}

/// There is no such template for the caller.
pub fn no_template(text: &str) -> ApiError {
    let text: String = text.chars().take(80).collect();
    ApiError::not_found(format!("template '{text}' not found"))
}

/// The id of a snapshot, as which sandboxes are made from it.
pub fn of_snapshot(snapshot: &Snapshot) -> String {
    match &snapshot.name {
        Some(name) => format!("{NAMESPACE}/{name}:{TAG}"),
        None => format!("{}:{TAG}", snapshot.id),
    }
}

/// The names of a snapshot, or none.
pub fn names_of(snapshot: &Snapshot) -> Vec<String> {
    snapshot.name.iter().map(|name| format!("{NAMESPACE}/{name}")).collect()
}

/// The name of a template with whose it is.
pub fn qualified(name: &str) -> String {
    format!("{NAMESPACE}/{name}")
}

/// The id of a template's only build: the same for the same name.
pub fn build_id(name: &str) -> String {
    let hex = hex(&Sha256::digest(name)[..16]);
    // Of the version and variant for ids that somebody made in a way of their own.
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_what_all_names_have() {
        for text in ["base", "base:default", "sandpiper/base", "sandpiper/base:default"] {
            assert_eq!(bare(text), Some("base"), "{text}");
        }
        for text in ["", ":default", "other/base", "base:v2", "sandpiper/", "a/b/c"] {
            assert_eq!(bare(text), None, "{text}");
        }
        assert!(new_name("my-snap").is_ok() && new_name("a b").is_err() && new_name("x:v2").is_err());
    }

    #[test]
    fn a_builds_id_has_the_form_of_one_and_is_always_the_same() {
        let id = build_id("base");
        assert_eq!(id, build_id("base"));
        assert_ne!(id, build_id("minimal"));
        assert_eq!(id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }
}
