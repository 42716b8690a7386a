//! What is written beside an image: which build it is, of what, and what a sandbox of it gets.

use std::fmt;
use std::str::FromStr;

use model::{DiskMb, TemplateName};
use serde::{Deserialize, Serialize};

use super::digest::{Digest, random_hex};
use super::image::ImageFacts;
use super::recipe::{Defaults, Start};

/// The manifests that this program writes and reads.
pub(super) const FORMAT: u32 = 1;

/// One build of a template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(String);

/// A text that is not the id of a build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a build id is 16 hexadecimal digits")]
pub struct InvalidBuildId;

impl BuildId {
    pub(super) fn random() -> Self {
        Self(random_hex())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BuildId {
    type Err = InvalidBuildId;

    fn from_str(text: &str) -> Result<Self, InvalidBuildId> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() == 16 && is_hex { Ok(Self(text.to_owned())) } else { Err(InvalidBuildId) }
    }
}

impl TryFrom<String> for BuildId {
    type Error = InvalidBuildId;

    fn try_from(text: String) -> Result<Self, InvalidBuildId> {
        text.parse()
    }
}

impl From<BuildId> for String {
    fn from(build: BuildId) -> String {
        build.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of a build. Members are added, never changed in meaning; a change in meaning raises the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this manifest.
    pub format: u32,
    /// Which template this is a build of.
    pub name: TemplateName,
    /// Which build this is.
    pub build: BuildId,
    /// One line for people.
    pub description: String,
    /// The recipe that it was made from.
    pub recipe_digest: Digest,
    /// When it was finished, in milliseconds since 1970.
    pub created_ms: u64,
    /// The root disk.
    pub image: ImageFacts,
    /// The size of the root disk, as a shape has it.
    pub disk_mb: DiskMb,
    /// The kernel that it boots.
    pub kernel_digest: Digest,
    /// What a command gets that asks for nothing.
    pub defaults: Defaults,
    /// What runs in every sandbox of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}
