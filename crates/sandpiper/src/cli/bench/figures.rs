//! Several runs of one thing, summed up.

use std::time::Duration;

use serde::Serialize;

/// In what a thing is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Milliseconds,
    Megabytes,
    /// Of one processor.
    Percent,
    PerSecond,
    Count,
}

/// At least one value of one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    pub unit: Unit,
    pub runs: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub p99: f64,
}

impl Figures {
    /// Sums up values. None where there is none.
    pub fn of(unit: Unit, mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let (first, last) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let is_odd = values.len() % 2 == 1;
        let median = if is_odd { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        // The smallest that 99 of 100 values do not exceed.
        let p99 = values[(values.len() * 99).div_ceil(100) - 1];
        Some(Self { unit, runs: values.len(), median, min: first, max: last, p99 })
    }

    /// Sums up times.
    pub fn times(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        Self::of(Unit::Milliseconds, times.into_iter().map(milliseconds).collect())
    }

    /// One value.
    pub fn single(unit: Unit, value: f64) -> Self {
        Self { unit, runs: 1, median: value, min: value, max: value, p99: value }
    }
}

impl Unit {
    /// A value of it, for people.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds if value >= 1000.0 => format!("{:.2} s", value / 1000.0),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Percent => format!("{value:.2} %"),
            Self::PerSecond => format!("{value:.2} /s"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// As a number.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        for (values, median) in [(&[7.0][..], 7.0), (&[9.0, 1.0, 5.0], 5.0), (&[4.0, 1.0, 2.0, 100.0], 3.0)] {
            assert_eq!(Figures::of(Unit::Count, values.to_vec()).unwrap().median, median, "{values:?}");
        }
        let figures = Figures::times([3, 1, 2].map(Duration::from_millis)).unwrap();
        assert_eq!((figures.runs, figures.min, figures.max, figures.p99), (3, 1.0, 3.0, 3.0));
        assert_eq!(Figures::times([]), None);
    }

    #[test]
    fn one_in_a_hundred_may_be_above_the_99th_percentile() {
        let values = (1..=200).map(f64::from).collect();
        assert_eq!(Figures::of(Unit::Count, values).unwrap().p99, 198.0);
    }

    #[test]
    fn values_are_shown_with_their_unit() {
        assert_eq!(Unit::Milliseconds.show(12.34), "12.3 ms");
        assert_eq!(Unit::Milliseconds.show(2750.0), "2.75 s");
        assert_eq!(Unit::Count.show(0.0), "0");
    }
}
