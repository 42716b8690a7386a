//! How a sandbox is to come to be.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// By which way a sandbox is made. It runs the same whichever way it came: this is for measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMode {
    /// The quickest way there is: warm pool, restore, boot.
    #[default]
    Auto,
    /// The template's kernel is booted.
    Boot,
    /// Restored from the image of a booted one, never out of the warm pool.
    Restore,
}

/// A text that names no way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of \"auto\", \"boot\" and \"restore\"")]
pub struct UnknownStartMode(String);

impl StartMode {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Boot, Self::Restore];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Boot => "boot",
            Self::Restore => "restore",
        }
    }
}

impl FromStr for StartMode {
    type Err = UnknownStartMode;

    fn from_str(text: &str) -> Result<Self, UnknownStartMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| UnknownStartMode(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_has_a_name() {
        for mode in StartMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("pool".parse::<StartMode>().is_err());
    }
}
