//! What a sandbox uses, measured each second and kept for a day in rings of fixed size. Knows nothing of how it is
//! asked for.

mod cpu;
mod ring;
mod sample;

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use cpu::ticks;
use ring::Ring;
pub(super) use sample::{Subject, sample};

/// What a sandbox used at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Unix seconds.
    pub timestamp: i64,
    /// Of all its vCPUs, 0 to 100.
    pub cpu_percent: f64,
    /// Memory that the guest has in use.
    pub memory_bytes: u64,
    /// What the sandbox has written to its disk, as the host stores it.
    pub disk_bytes: u64,
}

/// How far back to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// A point a second.
    TenMinutes,
    /// A point for each half minute.
    TwoHours,
    /// A point for each five minutes.
    Day,
}

/// A text that is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("range must be 10m, 2h or 24h")]
pub struct InvalidRange;

impl FromStr for Range {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        match text {
            "10m" => Ok(Self::TenMinutes),
            "2h" => Ok(Self::TwoHours),
            "24h" => Ok(Self::Day),
            _ => Err(InvalidRange),
        }
    }
}

/// All that is kept of one sandbox.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Rings>);

#[derive(Debug)]
struct Rings {
    ten_minutes: Ring,
    two_hours: Ring,
    day: Ring,
}

impl Default for Rings {
    fn default() -> Self {
        Self { ten_minutes: Ring::new(1, 600), two_hours: Ring::new(30, 240), day: Ring::new(300, 288) }
    }
}

/// All that was kept of one sandbox.
#[derive(Debug)]
pub struct Flushed {
    /// A point a second.
    pub ten_minutes: Vec<Point>,
    /// A point for each half minute.
    pub two_hours: Vec<Point>,
    /// A point for each five minutes.
    pub day: Vec<Point>,
}

impl Metrics {
    /// Oldest first.
    pub fn points(&self, range: Range) -> Vec<Point> {
        let rings = self.rings();
        match range {
            Range::TenMinutes => rings.ten_minutes.points(),
            Range::TwoHours => rings.two_hours.points(),
            Range::Day => rings.day.points(),
        }
    }

    /// Hands everything over and forgets it.
    pub fn flush(&self) -> Flushed {
        let rings = std::mem::take(&mut *self.rings());
        let Rings { ten_minutes, two_hours, day } = rings;
        Flushed { ten_minutes: ten_minutes.points(), two_hours: two_hours.points(), day: day.points() }
    }

    fn add(&self, point: Point) {
        let mut rings = self.rings();
        rings.ten_minutes.add(point);
        rings.two_hours.add(point);
        rings.day.add(point);
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
