//! Defects that are planted to see that they are found. Each is what the host agent or the control plane would do
//! if it made one mistake, played by what the simulation puts around them.

use std::str::FromStr;

/// A planted defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Monitors of an earlier host agent are not looked for: its sandboxes are in two places.
    ForgottenMonitors,
    /// What a guest changed is not written when it is paused or captured.
    UnwrittenMemory,
    /// Nobody compares records and host.
    NoReconciler,
    /// Networks stay.
    LeakedNetworks,
    /// A network that could not be removed once can never be.
    StuckNetworks,
    /// Idle time is told by the wall clock.
    WallClock,
    /// After a pause that failed the monitor is ended.
    PauseThatDestroys,
}

impl Bug {
    /// Every one, with the law that it breaks.
    pub const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::ForgottenMonitors, "forgotten-monitors", "no sandbox is in two places"),
        (Self::UnwrittenMemory, "unwritten-memory", "no acknowledged write is lost"),
        (Self::NoReconciler, "no-reconciler", "row and host agree"),
        (Self::LeakedNetworks, "leaked-networks", "nothing leaks"),
        (Self::StuckNetworks, "stuck-networks", "a delete ends"),
        (Self::WallClock, "wall-clock", "nothing expires early"),
        (Self::PauseThatDestroys, "pause-that-destroys", "a failed pause destroys nothing"),
    ];

    /// The law that it breaks.
    pub fn law(self) -> &'static str {
        Self::ALL.iter().find(|(bug, ..)| *bug == self).map_or("", |(.., law)| law)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(bug, ..)| *bug == self).map_or("", |(_, name, _)| name)
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name, _)| *name == text);
        found.map(|(bug, ..)| *bug).ok_or_else(|| format!("no planted defect is called {text:?}"))
    }
}
