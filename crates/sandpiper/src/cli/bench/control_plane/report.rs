//! What was found, for people and for programs.

use std::io;
use std::time::Duration;

use serde::Serialize;

use super::super::environment::Machine;
use crate::cli::output;

/// How long requests took, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    requests: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Requests at a rate.
#[derive(Debug, Serialize)]
pub struct OpenLoop {
    pub requests_per_second: u32,
    #[serde(flatten)]
    pub latency: Latency,
}

/// Requests as fast as they are answered.
#[derive(Debug, Serialize)]
pub struct ClosedLoop {
    pub connections: usize,
    pub requests_per_second: f64,
    #[serde(flatten)]
    pub latency: Latency,
}

/// Lists of sandboxes.
#[derive(Debug, Serialize)]
pub struct List {
    pub rows: usize,
    #[serde(flatten)]
    pub latency: Latency,
}

/// Passes of the reconciler over some hosts.
#[derive(Debug, Serialize)]
pub struct Pass {
    hosts: usize,
    rows: usize,
    median_ms: f64,
    max_ms: f64,
    median_us_per_row: f64,
}

/// Everything that the benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The engine and its version.
    pub store: String,
    pub sandboxes: usize,
    pub hosts: usize,
    pub get: OpenLoop,
    /// Absent where the server has no pages.
    pub list_page: Option<List>,
    pub list_whole: List,
    pub closed_loop: ClosedLoop,
    /// Over some of the hosts, and over all.
    pub passes: Vec<Pass>,
    pub machine: Machine,
}

impl Latency {
    /// Of at least one request.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self {
            requests: times.len(),
            p50_ms: milliseconds(percentile(&times, 50)),
            p99_ms: milliseconds(percentile(&times, 99)),
            max_ms: milliseconds(percentile(&times, 100)),
        }
    }

    fn row(&self, name: String) -> [String; 5] {
        [name, self.requests.to_string(), text(self.p50_ms), text(self.p99_ms), text(self.max_ms)]
    }
}

impl Pass {
    /// Of at least one time, for passes over `rows` in all.
    pub fn new(hosts: usize, rows: usize, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let median_ms = milliseconds(percentile(&times, 50));
        let max_ms = milliseconds(percentile(&times, 100));
        Self { hosts, rows, median_ms, max_ms, median_us_per_row: median_ms * 1000.0 / rows.max(1) as f64 }
    }
}

impl Report {
    /// For people.
    pub fn print(&self) -> io::Result<()> {
        let list = |name: &str, list: &List| list.latency.row(format!("{name} ({} rows)", list.rows));
        let mut rows = vec![self.get.latency.row(format!("get, {} requests/s", self.get.requests_per_second))];
        rows.extend(self.list_page.as_ref().map(|page| list("page of the list", page)));
        rows.push(list("whole list", &self.list_whole));
        let closed = &self.closed_loop;
        rows.push(closed.latency.row(format!("get, {} connections", closed.connections)));
        output::table(["MEASURED", "REQUESTS", "P50", "P99", "MAX"], rows)?;
        output::line(format_args!(
            "{} connections together: {:.0} requests/s",
            closed.connections, closed.requests_per_second
        ))?;
        for pass in &self.passes {
            output::line(format_args!(
                "reconcile pass over {} rows on {} hosts: {} (at most {}), {:.1} µs a row",
                pass.rows,
                pass.hosts,
                text(pass.median_ms),
                text(pass.max_ms),
                pass.median_us_per_row
            ))?;
        }
        output::line(format_args!("{} sandboxes on {} simulated hosts; {}", self.sandboxes, self.hosts, self.store))?;
        output::line(&self.machine)
    }
}

/// The smallest time that as many percent of `times` do not exceed; they are sorted and not empty.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent).div_ceil(100).max(1) - 1]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn text(milliseconds: f64) -> String {
    format!("{milliseconds:.2} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(milliseconds: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        milliseconds.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let latency = Latency::of(times((1..=200).rev()));
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (100.0, 198.0, 200.0));
        let one = Latency::of(times([7]));
        assert_eq!((one.requests, one.p50_ms, one.p99_ms), (1, 7.0, 7.0));
    }

    #[test]
    fn the_cost_of_a_row_is_told() {
        let pass = Pass::new(10, 1000, times([30, 10, 20]));
        assert_eq!((pass.median_ms, pass.max_ms, pass.median_us_per_row), (20.0, 30.0, 20.0));
    }
}
