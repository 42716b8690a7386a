//! What SPECIFICATION.md promises on two cores, as ratios within one run wherever that is possible.

use serde::Serialize;

use super::figures::Unit;
use super::report::{Key, Row, describe, find, show_ratio};

/// The most that a thing may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Limit {
    /// This many times another's median.
    Times { of: Key, at_most: f64 },
    /// This much, under emulation and with hardware virtualisation.
    Value { emulated: f64, hardware: f64 },
}

const PROMISES: [(Key, Limit); 11] = [
    (Key::Pool, Limit::Times { of: Key::Boot, at_most: 1.0 / 80.0 }),
    (Key::PoolToOutput, Limit::Times { of: Key::Boot, at_most: 1.0 / 40.0 }),
    (Key::Restore, Limit::Times { of: Key::Boot, at_most: 1.0 / 15.0 }),
    (Key::Confinement, Limit::Value { emulated: 15.0, hardware: 15.0 }),
    (Key::ConfinementPooled, Limit::Value { emulated: 0.0, hardware: 0.0 }),
    (Key::ResumeToOutput, Limit::Times { of: Key::Boot, at_most: 1.0 / 10.0 }),
    (Key::LaterPause, Limit::Times { of: Key::Boot, at_most: 1.0 / 20.0 }),
    (Key::ForkTen, Limit::Times { of: Key::Boot, at_most: 1.0 }),
    (Key::Exec, Limit::Times { of: Key::ExecInGuest, at_most: 2.0 }),
    (Key::MemoryIdle, Limit::Value { emulated: 90.0, hardware: 40.0 }),
    (Key::BurstFailures, Limit::Value { emulated: 0.0, hardware: 0.0 }),
];

/// Whether a promise was kept.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    key: Key,
    unit: Option<Unit>,
    at_most: f64,
    /// None where it, or what it is compared with, was not measured: that keeps no promise.
    measured: Option<f64>,
}

/// Holds what was measured against what is promised.
pub fn check(rows: &[Row], accelerator: &str) -> Vec<Outcome> {
    PROMISES.iter().map(|(key, limit)| check_one(rows, accelerator, *key, limit)).collect()
}

fn check_one(rows: &[Row], accelerator: &str, key: Key, limit: &Limit) -> Outcome {
    let figures = find(rows, key);
    match *limit {
        Limit::Times { of, at_most } => {
            let other = find(rows, of).map(|other| other.median).filter(|median| *median > 0.0);
            let measured = figures.zip(other).map(|(figures, other)| figures.median / other);
            Outcome { key, unit: None, at_most, measured }
        }
        Limit::Value { emulated, hardware } => {
            let at_most = if accelerator == "kvm" { hardware } else { emulated };
            let measured = figures.map(|figures| figures.median);
            Outcome { key, unit: figures.map(|figures| figures.unit), at_most, measured }
        }
    }
}

impl Outcome {
    /// Whether it was measured and is not too large.
    pub fn is_kept(&self) -> bool {
        self.measured.is_some_and(|measured| measured <= self.at_most)
    }

    /// For people.
    pub fn show(&self) -> [String; 4] {
        let show = |value| self.unit.map_or_else(|| show_ratio(value), |unit| unit.show(value));
        let measured = self.measured.map_or_else(|| "not measured".to_owned(), show);
        let verdict = if self.is_kept() { "kept" } else { "BROKEN" };
        [describe(self.key).to_owned(), show(self.at_most), measured, verdict.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::figures::Figures;

    fn outcome(rows: &[(Key, f64)], key: Key) -> Outcome {
        let row = |(key, value): &(Key, f64)| Row { key: *key, figures: Figures::single(Unit::Milliseconds, *value) };
        let rows: Vec<_> = rows.iter().map(row).collect();
        check(&rows, "tcg").into_iter().find(|outcome| outcome.key == key).unwrap()
    }

    #[test]
    fn a_ratio_is_kept_up_to_its_limit() {
        assert!(outcome(&[(Key::Boot, 2400.0), (Key::Pool, 30.0)], Key::Pool).is_kept());
        let broken = outcome(&[(Key::Boot, 2400.0), (Key::Pool, 31.0)], Key::Pool);
        assert!(!broken.is_kept());
        assert_eq!(broken.show()[1..], ["1/80", "1/77", "BROKEN"]);
    }

    #[test]
    fn what_was_not_measured_is_not_kept() {
        assert!(!outcome(&[(Key::Boot, 2400.0)], Key::Pool).is_kept());
        assert!(!outcome(&[(Key::Pool, 1.0)], Key::Pool).is_kept());
        assert!(!outcome(&[], Key::BurstFailures).is_kept());
        assert!(outcome(&[(Key::BurstFailures, 0.0)], Key::BurstFailures).is_kept());
        assert!(!outcome(&[(Key::BurstFailures, 1.0)], Key::BurstFailures).is_kept());
    }
}
