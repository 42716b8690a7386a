//! Times summed up, and the report made of them.

use std::io;
use std::time::Duration;

use client::SpawnBenchmark;
use serde::Serialize;

use super::environment::Environment;
use crate::console::output;

/// Several runs of one thing, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    runs: usize,
    median_ms: f64,
    min_ms: f64,
    max_ms: Option<f64>,
}

/// Everything that a benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    template: String,
    /// From the request to the answer that the sandbox runs, the first time: that boots a guest and bakes its image, if
    /// the server had none.
    first_create: Figures,
    /// The same from then on: restored from the image.
    create_to_ready: Figures,
    /// A command through the REST API.
    exec_rest: Figures,
    /// The same started inside the guest.
    exec_guest: Figures,
    /// Median of the first over the median of the second.
    exec_ratio: f64,
    environment: Environment,
}

impl Figures {
    /// Sums up at least one time.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let middle = times.len() / 2;
        let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2 };
        Self {
            runs: times.len(),
            median_ms: milliseconds(median),
            min_ms: milliseconds(times[0]),
            max_ms: times.last().copied().map(milliseconds),
        }
    }

    fn row(&self, name: &str) -> [String; 5] {
        let text = |number: f64| format!("{number:.2} ms");
        let max = self.max_ms.map_or_else(|| "-".to_owned(), text);
        [name.to_owned(), self.runs.to_string(), text(self.median_ms), text(self.min_ms), max]
    }
}

impl From<&SpawnBenchmark> for Figures {
    fn from(guest: &SpawnBenchmark) -> Self {
        let microseconds = |number| milliseconds(Duration::from_micros(number));
        Self {
            runs: guest.count as usize,
            median_ms: microseconds(guest.median_us),
            min_ms: microseconds(guest.min_us),
            max_ms: None,
        }
    }
}

impl Report {
    /// Puts the parts together.
    pub fn new(
        template: &str,
        [first_create, create_to_ready]: [Figures; 2],
        exec_rest: Figures,
        guest: &SpawnBenchmark,
        environment: Environment,
    ) -> Self {
        let exec_guest = Figures::from(guest);
        let exec_ratio = exec_rest.median_ms / exec_guest.median_ms.max(0.001);
        Self {
            template: template.to_owned(),
            first_create,
            create_to_ready,
            exec_rest,
            exec_guest,
            exec_ratio,
            environment,
        }
    }

    /// For people.
    pub fn print(&self) -> io::Result<()> {
        let rows = [
            self.first_create.row("first create of the shape"),
            self.create_to_ready.row("create to ready"),
            self.exec_rest.row("exec of true through REST"),
            self.exec_guest.row("the same inside the guest"),
        ];
        output::table(["MEASURED", "RUNS", "MEDIAN", "MIN", "MAX"], rows)?;
        output::line(format_args!("exec through REST / inside the guest: {:.2}", self.exec_ratio))?;
        output::line(format_args!("template {}; {}", self.template, self.environment))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn times(milliseconds: &[u64]) -> Vec<Duration> {
        milliseconds.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        for (runs, median) in [(&[7][..], 7.0), (&[9, 1, 5], 5.0), (&[4, 1, 2, 100], 3.0)] {
            assert_eq!(Figures::of(times(runs)).median_ms, median, "{runs:?}");
        }
        let figures = Figures::of(times(&[3, 1, 2]));
        assert_eq!((figures.runs, figures.min_ms, figures.max_ms), (3, 1.0, Some(3.0)));
    }

    #[test]
    fn the_report_has_stable_names_and_the_ratio() {
        let guest = SpawnBenchmark { count: 50, median_us: 4000, min_us: 3500 };
        let report = Report::new(
            "minimal",
            [Figures::of(times(&[4000])), Figures::of(times(&[200]))],
            Figures::of(times(&[10])),
            &guest,
            Environment::default(),
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["first_create"]["median_ms"], &json["create_to_ready"]["median_ms"]),
            (&json!(4000.0), &json!(200.0))
        );
        assert_eq!(json["exec_guest"]["median_ms"], 4.0);
        assert_eq!(json["exec_ratio"], 2.5);
        assert!(json["environment"].is_object());
    }
}
