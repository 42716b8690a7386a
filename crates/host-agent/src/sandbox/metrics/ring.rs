//! The last points of one spacing. Each is the mean of what was measured in its period.

use std::collections::VecDeque;

use super::Point;

/// A bounded row of points.
#[derive(Debug)]
pub(super) struct Ring {
    /// Seconds.
    period: i64,
    capacity: usize,
    closed: VecDeque<Point>,
    open: Option<Period>,
}

/// A period that is not over.
#[derive(Debug, Clone, Copy)]
struct Period {
    start: i64,
    count: u32,
    cpu_percent: f64,
    memory_bytes: f64,
    disk_bytes: f64,
}

impl Ring {
    pub fn new(period: i64, capacity: usize) -> Self {
        Self { period, capacity, closed: VecDeque::new(), open: None }
    }

    /// Counts a measurement into its period; one of another period closes the one before.
    pub fn add(&mut self, point: Point) {
        let start = point.timestamp - point.timestamp.rem_euclid(self.period);
        let mut period = match self.open.take() {
            Some(period) if period.start == start => period,
            before => {
                self.closed.extend(before.map(|period| period.mean()));
                // The open one counts too.
                while self.closed.len() >= self.capacity {
                    self.closed.pop_front();
                }
                Period { start, count: 0, cpu_percent: 0.0, memory_bytes: 0.0, disk_bytes: 0.0 }
            }
        };
        period.count += 1;
        period.cpu_percent += point.cpu_percent;
        period.memory_bytes += point.memory_bytes as f64;
        period.disk_bytes += point.disk_bytes as f64;
        self.open = Some(period);
    }

    /// Oldest first; the last may be of a period that is not over.
    pub fn points(&self) -> Vec<Point> {
        self.closed.iter().copied().chain(self.open.map(|period| period.mean())).collect()
    }
}

impl Period {
    fn mean(self) -> Point {
        let count = f64::from(self.count);
        Point {
            timestamp: self.start,
            cpu_percent: self.cpu_percent / count,
            memory_bytes: (self.memory_bytes / count) as u64,
            disk_bytes: (self.disk_bytes / count) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(timestamp: i64, cpu_percent: f64) -> Point {
        Point { timestamp, cpu_percent, memory_bytes: 10, disk_bytes: 20 }
    }

    #[test]
    fn a_point_is_the_mean_of_its_period() {
        let mut ring = Ring::new(30, 240);
        for (timestamp, cpu) in [(89, 100.0), (90, 10.0), (91, 20.0), (119, 60.0), (120, 7.0)] {
            ring.add(point(timestamp, cpu));
        }
        assert_eq!(ring.points(), [point(60, 100.0), point(90, 30.0), point(120, 7.0)]);
    }

    #[test]
    fn old_points_make_room_and_a_clock_that_goes_back_does_no_harm() {
        let mut ring = Ring::new(1, 3);
        for timestamp in [1, 2, 3, 4, 2] {
            ring.add(point(timestamp, 1.0));
            assert!(ring.points().len() <= 3);
        }
        let times: Vec<i64> = ring.points().iter().map(|point| point.timestamp).collect();
        assert_eq!(times, [3, 4, 2]);
    }
}
