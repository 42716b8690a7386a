//! Figures for Prometheus. Every label has few values: never an id, never a path that a client chose.
//!
//! What happens is counted when it happens; what is so now is read when somebody asks. Each control plane has figures
//! of its own. Knows nothing of HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use model::{HostId, Status};

use crate::reconcile::Report;

/// Seconds: from a read of one record to the boot of a guest on a busy machine.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// How often samples that nobody asked for yet are folded into their buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// The figures of one control plane; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
}

/// What is so now.
pub struct Now<'a> {
    /// How many sandboxes have each status; those that are not there have none.
    pub sandboxes: &'a BTreeMap<Status, u64>,
    /// The host that is compared with the records.
    pub host: &'a HostId,
    /// How that goes.
    pub report: &'a Report,
}

/// How a command ended, or why nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEnd {
    /// With exit code 0.
    Ok,
    /// With another one, or by a signal.
    Failed,
    /// It took too long and was killed.
    TimedOut,
    /// Its client left, and it was killed.
    Abandoned,
    /// It was not run, or its end is not known; the host agent's or the transport's word for why.
    Error(&'static str),
}

impl ExecEnd {
    /// By its exit code.
    pub fn exited(code: i32) -> Self {
        if code == 0 { Self::Ok } else { Self::Failed }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
            Self::Error(reason) => reason,
        }
    }
}

/// A command whose end will be counted.
pub struct FollowedExec {
    metrics: Metrics,
    end: ExecEnd,
}

impl FollowedExec {
    /// It ended so, or will have.
    pub fn ends(&mut self, end: ExecEnd) {
        self.end = end;
    }
}

impl Drop for FollowedExec {
    fn drop(&mut self) {
        self.metrics.record(|| counter!("sandpiper_execs_total", "result" => self.end.label()).increment(1));
    }
}

impl Metrics {
    /// Figures that begin at nothing.
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).expect("there are buckets");
        let this = Self { recorder: Arc::new(builder.build_recorder()) };
        this.record(describe);
        this
    }

    fn record(&self, what: impl FnOnce()) {
        with_local_recorder(&*self.recorder, what);
    }

    /// A request was answered; `route` is the template of its path, not the path.
    pub fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.record(|| {
            histogram!("sandpiper_http_request_duration_seconds", "method" => method, "route" => route.clone())
                .record(took.as_secs_f64());
            counter!("sandpiper_http_requests_total", "method" => method, "route" => route,
                     "status" => status.to_string())
            .increment(1);
        });
    }

    /// A create, pause, resume, snapshot, fork or delete ended: `ok`, or why it did not happen.
    pub fn operation(&self, operation: &'static str, result: &'static str, took: Duration) {
        self.record(|| {
            counter!("sandpiper_sandbox_operations_total", "operation" => operation, "result" => result).increment(1);
            histogram!("sandpiper_sandbox_operation_duration_seconds", "operation" => operation)
                .record(took.as_secs_f64());
        });
    }

    /// A command begins. It is counted when it ends, and as abandoned if nobody says how.
    pub fn follow_exec(&self) -> FollowedExec {
        FollowedExec { metrics: self.clone(), end: ExecEnd::Abandoned }
    }

    /// Everything as text, in Prometheus' format.
    pub fn render(&self, now: &Now<'_>) -> String {
        self.record(|| {
            for status in Status::ALL {
                let count = now.sandboxes.get(&status).copied().unwrap_or_default();
                gauge!("sandpiper_sandboxes", "status" => status.to_string()).set(count as f64);
            }
            show_host(now.host, now.report);
            show_reconciler(now.report);
            gauge!("sandpiper_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        });
        self.recorder.handle().render()
    }

    /// Keeps what has been recorded small although nobody asks for it. Never returns.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.recorder.handle().run_upkeep();
        }
    }
}

fn seconds_since(time: Timestamp) -> f64 {
    Timestamp::now().duration_since(time).as_secs_f64().max(0.0)
}

fn show_host(host: &HostId, report: &Report) {
    let is_up = report.last.is_some() && report.silent_since.is_none();
    gauge!("sandpiper_host_up", "host" => host.to_string()).set(u8::from(is_up));
    let silent = report.silent_since.map_or(0.0, seconds_since);
    gauge!("sandpiper_host_silent_seconds", "host" => host.to_string()).set(silent);
}

fn show_reconciler(report: &Report) {
    counter!("sandpiper_reconciler_passes_total", "result" => "complete")
        .absolute(report.passes - report.failed_passes);
    counter!("sandpiper_reconciler_passes_total", "result" => "failed").absolute(report.failed_passes);
    let total = report.total;
    for (action, done) in [
        ("corrected", total.corrected),
        ("deleted", total.deleted),
        ("destroyed", total.destroyed),
        ("failed", total.failed),
    ] {
        counter!("sandpiper_reconciler_steps_total", "step" => action).absolute(done as u64);
    }
    if let Some(complete) = report.complete {
        gauge!("sandpiper_reconciler_lag_seconds").set(seconds_since(complete));
    }
    if let Some(last) = &report.last {
        gauge!("sandpiper_reconciler_last_pass_timestamp_seconds").set(last.began.as_millisecond() as f64 / 1000.0);
        gauge!("sandpiper_reconciler_last_pass_duration_seconds").set(last.took.as_secs_f64());
        gauge!("sandpiper_reconciler_last_pass_records").set(last.counts.records as f64);
        gauge!("sandpiper_reconciler_last_pass_on_host").set(last.counts.on_host as f64);
    }
}

fn describe() {
    describe_counter!("sandpiper_http_requests_total", "Requests that were answered.");
    describe_histogram!("sandpiper_http_request_duration_seconds", "From a request's headers to its answer's.");
    describe_counter!(
        "sandpiper_sandbox_operations_total",
        "Creates, pauses, resumes, snapshots, forks and deletes: ok, or why not."
    );
    describe_histogram!("sandpiper_sandbox_operation_duration_seconds", "How long those took.");
    describe_counter!("sandpiper_execs_total", "Commands by how they ended.");
    describe_gauge!("sandpiper_sandboxes", "Records of sandboxes by status.");
    describe_gauge!("sandpiper_host_up", "Whether the host agent answered when records and host were last compared.");
    describe_gauge!("sandpiper_host_silent_seconds", "How long the host agent has not answered.");
    describe_counter!("sandpiper_reconciler_passes_total", "Comparisons of records and host.");
    describe_counter!("sandpiper_reconciler_steps_total", "What those put right, or failed to.");
    describe_gauge!("sandpiper_reconciler_lag_seconds", "Age of the last complete comparison.");
    describe_gauge!("sandpiper_reconciler_last_pass_timestamp_seconds", "When the last comparison began.");
    describe_gauge!("sandpiper_reconciler_last_pass_duration_seconds", "How long it took.");
    describe_gauge!("sandpiper_reconciler_last_pass_records", "Records that it looked at.");
    describe_gauge!("sandpiper_reconciler_last_pass_on_host", "Sandboxes that the host had.");
    describe_gauge!("sandpiper_build_info", "The server's version; always 1.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_control_planes_count_apart() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.follow_exec().ends(ExecEnd::Ok);
        let host = "default".parse().unwrap();
        let (sandboxes, report) = (BTreeMap::from([(Status::Running, 2)]), Report::default());
        let now = Now { sandboxes: &sandboxes, host: &host, report: &report };
        let (one, two) = (one.render(&now), two.render(&now));
        assert!(one.contains("sandpiper_execs_total{result=\"ok\"} 1"), "{one}");
        assert!(!two.contains("sandpiper_execs_total{"), "{two}");
        for line in ["sandpiper_sandboxes{status=\"running\"} 2", "sandpiper_sandboxes{status=\"paused\"} 0"] {
            assert!(two.lines().any(|other| other == line), "{line}: {two}");
        }
        assert!(two.contains("sandpiper_host_up{host=\"default\"} 0"), "it was never asked: {two}");
    }
}
