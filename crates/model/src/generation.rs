//! Which decision about a sandbox a call carries out.

use std::fmt;

/// The generation of the record that a change was decided on. Of two, the greater was decided later; a host that has heard
/// of the greater carries out nothing of the smaller any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(u64);

impl Generation {
    /// What callers say that keep no records: it is never too old.
    pub const UNSAID: Self = Self(0);

    /// Of this number.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Whether a host that has heard of `known` must not carry this out any more.
    pub fn is_outdated_by(self, known: Self) -> bool {
        self != Self::UNSAID && self < known
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_decided_earlier_is_outdated() {
        let check = |asked, known, expect| {
            assert_eq!(Generation::new(asked).is_outdated_by(Generation::new(known)), expect, "{asked} {known}");
        };
        check(4, 5, true);
        check(5, 5, false);
        check(6, 5, false);
        check(0, 5, false);
    }
}
