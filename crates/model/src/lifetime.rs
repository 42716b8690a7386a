//! How long a sandbox may live, and what then happens to it.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When a sandbox expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// It does not.
    Never,
    /// This long after its last activity.
    Idle(Duration),
}

/// What expiry does to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// It is deleted with everything in it.
    #[default]
    Destroy,
    /// It is paused and can be resumed.
    Pause,
    /// Its disk is kept, and it can be started from that.
    Stop,
}

/// What a call that needs the guest does to a paused sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoResume {
    /// It is refused.
    #[default]
    Off,
    /// It resumes the sandbox first.
    On,
}

/// How much of a sandbox something goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// All of it: its programs notice nothing.
    #[default]
    Full,
    /// Its disk alone, from which it boots.
    Disk,
}

impl OnExpiry {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Destroy, Self::Pause, Self::Stop];

    /// Its name in the API and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Destroy => "destroy",
            Self::Pause => "pause",
            Self::Stop => "stop",
        }
    }
}

/// A text that names nothing that expiry does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"destroy\" nor \"pause\" nor \"stop\"")]
pub struct UnknownOnExpiry(String);

impl FromStr for OnExpiry {
    type Err = UnknownOnExpiry;

    fn from_str(text: &str) -> Result<Self, UnknownOnExpiry> {
        let found = Self::ALL.into_iter().find(|what| what.as_str() == text);
        found.ok_or_else(|| UnknownOnExpiry(text.chars().take(80).collect()))
    }
}

impl Lifetime {
    /// From whole seconds of inactivity, 0 meaning never: the form of the seed's RPC.
    pub fn from_idle_seconds(seconds: u32) -> Self {
        if seconds == 0 { Self::Never } else { Self::Idle(Duration::from_secs(seconds.into())) }
    }

    /// The inverse of [`Self::from_idle_seconds`].
    pub fn idle_seconds(self) -> u32 {
        match self {
            Self::Never => 0,
            Self::Idle(duration) => u32::try_from(duration.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expiry_does_has_a_name() {
        for what in OnExpiry::ALL {
            assert_eq!(what.as_str().parse(), Ok(what));
        }
        assert!("stopped".parse::<OnExpiry>().is_err());
    }

    #[test]
    fn zero_seconds_is_never() {
        assert_eq!(Lifetime::from_idle_seconds(0), Lifetime::Never);
        for seconds in [0, 1, 300, u32::MAX] {
            assert_eq!(Lifetime::from_idle_seconds(seconds).idle_seconds(), seconds);
        }
    }
}
