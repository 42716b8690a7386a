//! How many sandboxes of a kind are worth keeping ready. Pure: knows times and counts, nothing of sandboxes.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// A kind that nobody asked for in so long is not kept ready.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// What was asked for in this time shows how much will be.
const LOOK_BACK: Duration = Duration::from_secs(60);

/// Creates in that time for each sandbox kept ready beyond the first: making one takes a good second where nothing else
/// runs.
const CREATES_EACH: usize = 6;

/// The most of one kind.
const MOST: usize = 8;

/// How large the warm pool is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PoolMode {
    /// Nothing is kept ready.
    Off,
    /// As many of each kind as its use asks for.
    #[default]
    Auto,
    /// As many of each kind that is in use.
    Fixed(u32),
}

/// A text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be auto, off, or how many sandboxes of each kind to keep ready")]
pub struct InvalidPoolMode;

impl FromStr for PoolMode {
    type Err = InvalidPoolMode;

    fn from_str(text: &str) -> Result<Self, InvalidPoolMode> {
        match text {
            "off" | "0" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Fixed).map_err(|_| InvalidPoolMode),
        }
    }
}

impl fmt::Display for PoolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Auto => f.write_str("auto"),
            Self::Fixed(number) => number.fmt(f),
        }
    }
}

/// When a kind was asked for.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// The last time.
    last: Option<Instant>,
    /// Those within [`LOOK_BACK`] of the last, as many as make a difference.
    recent: VecDeque<Instant>,
}

impl Demand {
    /// It was asked for now.
    pub fn note(&mut self, now: Instant) {
        self.last = Some(now);
        self.recent.push_back(now);
        if self.recent.len() > MOST * CREATES_EACH {
            self.recent.pop_front();
        }
    }

    /// How many to keep ready.
    pub fn target(&self, mode: PoolMode, now: Instant) -> usize {
        let is_in_use = self.last.is_some_and(|last| now.duration_since(last) < REMEMBERED);
        let recent = self.recent.iter().filter(|then| now.duration_since(**then) < LOOK_BACK).count();
        match mode {
            _ if !is_in_use => 0,
            PoolMode::Off => 0,
            PoolMode::Auto => (1 + recent / CREATES_EACH).min(MOST),
            PoolMode::Fixed(number) => usize::try_from(number).unwrap_or(usize::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_read_as_it_is_written() {
        for mode in [PoolMode::Off, PoolMode::Auto, PoolMode::Fixed(3)] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("0".parse(), Ok(PoolMode::Off));
        assert_eq!("-1".parse::<PoolMode>(), Err(InvalidPoolMode));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_each_kind_in_use_is_kept_and_more_of_what_is_asked_for_often() {
        let mut demand = Demand::default();
        let check = |demand: &Demand, expect: usize| {
            assert_eq!(demand.target(PoolMode::Auto, Instant::now()), expect);
        };
        check(&demand, 0);
        demand.note(Instant::now());
        check(&demand, 1);
        (0..2 * CREATES_EACH).for_each(|_| demand.note(Instant::now()));
        check(&demand, 3);
        (0..1000).for_each(|_| demand.note(Instant::now()));
        check(&demand, MOST);
        tokio::time::advance(LOOK_BACK).await;
        check(&demand, 1);
        tokio::time::advance(REMEMBERED).await;
        check(&demand, 0);
        assert_eq!(demand.target(PoolMode::Fixed(2), Instant::now()), 0);
        demand.note(Instant::now());
        assert_eq!(demand.target(PoolMode::Fixed(2), Instant::now()), 2);
        assert_eq!(demand.target(PoolMode::Off, Instant::now()), 0);
    }
}
