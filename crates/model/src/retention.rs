//! How many things of a kind are kept for an owner, and for how long: which of them are too many or too old.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::OwnerId;
use crate::plan::is_older;

/// What is kept; without a limit, everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// At most so many of each owner, those that were used last.
    pub count: Option<u32>,
    /// For this long after the last use.
    pub age: Option<Duration>,
}

/// Something that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept<T> {
    /// What it is.
    pub item: T,
    /// Whose it is.
    pub owner: OwnerId,
    /// When it was last used, or made.
    pub last_used: Timestamp,
    /// Whether something needs it: then it stays, and is counted.
    pub is_needed: bool,
}

/// Why something is not kept any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surplus {
    /// It was not used for this long.
    TooOld(Duration),
    /// Its owner has so many that were used later.
    TooMany(u32),
}

impl fmt::Display for Surplus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(age) => write!(f, "retention: it was not used for {} s", age.as_secs()),
            Self::TooMany(count) => write!(f, "retention: at most {count} are kept and others were used later"),
        }
    }
}

impl Retention {
    /// Whether everything is kept.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are not kept any longer, the least recently used first.
    pub fn surplus<T>(&self, mut kept: Vec<Kept<T>>, now: Timestamp) -> Vec<(T, Surplus)> {
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.last_used));
        let mut seen: HashMap<OwnerId, u32> = HashMap::new();
        let mut surplus = Vec::new();
        for Kept { item, owner, last_used, is_needed } in kept {
            let rank = seen.entry(owner).or_default();
            *rank += 1;
            let why = match (self.count, self.age) {
                (Some(count), _) if *rank > count => Some(Surplus::TooMany(count)),
                (_, Some(age)) if is_older(last_used, age, now) => Some(Surplus::TooOld(age)),
                _ => None,
            };
            surplus.extend(why.filter(|_| !is_needed).map(|why| (item, why)));
        }
        surplus.reverse();
        surplus
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of things last used at these times, the surplus at 100.
    fn surplus(retention: Retention, kept: &[(&str, i64, bool)]) -> Vec<(i64, Surplus)> {
        let kept = kept.iter().map(|(owner, at, is_needed)| Kept {
            item: *at,
            owner: owner.parse().unwrap(),
            last_used: Timestamp::from_second(*at).unwrap(),
            is_needed: *is_needed,
        });
        retention.surplus(kept.collect(), Timestamp::from_second(100).unwrap())
    }

    #[test]
    fn without_limits_everything_stays() {
        assert!(Retention::default().is_unlimited());
        assert_eq!(surplus(Retention::default(), &[("a", 0, false), ("a", 1, false)]), []);
    }

    #[test]
    fn the_last_used_of_each_owner_stay() {
        let two = Retention { count: Some(2), age: None };
        let kept = [("a", 1, false), ("a", 3, false), ("b", 0, false), ("a", 2, false), ("a", 4, false)];
        assert_eq!(surplus(two, &kept), [(1, Surplus::TooMany(2)), (2, Surplus::TooMany(2))]);
        let none = Retention { count: Some(0), age: None };
        assert_eq!(surplus(none, &[("a", 1, false)]), [(1, Surplus::TooMany(0))]);
    }

    #[test]
    fn what_is_old_goes_and_what_is_needed_stays() {
        let age = Duration::from_secs(50);
        let old = Retention { count: None, age: Some(age) };
        let kept = [("a", 50, false), ("a", 51, false), ("a", 10, true), ("a", 200, false)];
        assert_eq!(surplus(old, &kept), [(50, Surplus::TooOld(age))]);
    }
}
