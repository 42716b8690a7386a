//! What of a network policy is for its host alone. Knows nothing of how it is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that shows in no log. How long it may be is a matter of what it is for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) String);

/// In the place of a secret that is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Untold;

impl Secret {
    /// One that was looked at when somebody gave it, and was kept since.
    pub fn kept(text: String) -> Self {
        Self(text)
    }

    /// What it is.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
