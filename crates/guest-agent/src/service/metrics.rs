//! `GET /metrics`: what the sandbox uses, for the host that polls it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Agent;
use super::error::HttpError;

const MIB: u64 = 1 << 20;

/// The processors' times at the last look: the share that was used is of the time since then.
#[derive(Debug, Default)]
pub struct Cpu(Mutex<Times>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    busy: u64,
    total: u64,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Metrics {
    ts: u64,
    cpu_count: usize,
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    disk_total: u64,
    disk_used: u64,
}

/// Looks once.
pub async fn metrics(State(agent): State<Arc<Agent>>) -> Result<Json<Metrics>, HttpError> {
    let look = tokio::task::spawn_blocking(move || look(&agent.cpu)).await;
    let metrics = look.map_err(|error| HttpError::internal(&error))?;
    Ok(Json(metrics.map_err(|error| HttpError::internal(&error))?))
}

fn look(cpu: &Cpu) -> std::io::Result<Metrics> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let disk = rustix::fs::statvfs("/")?;
    let field = |name: &str| kilobytes(&memory, name) * 1024;
    let (mem_total, available) = (field("MemTotal:"), field("MemAvailable:"));
    let mem_used = mem_total.saturating_sub(available);
    Ok(Metrics {
        ts: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        cpu_count: stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count(),
        cpu_used_pct: cpu.used_since_last(times(&stat)),
        mem_total,
        mem_used,
        mem_cache: field("Cached:"),
        mem_total_mib: mem_total / MIB,
        mem_used_mib: mem_used / MIB,
        disk_total: disk.f_blocks * disk.f_frsize,
        disk_used: (disk.f_blocks - disk.f_bfree) * disk.f_frsize,
    })
}

impl Cpu {
    fn used_since_last(&self, now: Times) -> f64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (busy, total) = (now.busy.saturating_sub(last.busy), now.total.saturating_sub(last.total));
        *last = now;
        if total == 0 { 0.0 } else { (busy as f64 / total as f64 * 1000.0).round() / 10.0 }
    }
}

/// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
fn times(stat: &str) -> Times {
    let numbers = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let numbers: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    let total: u64 = numbers.iter().sum();
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    Times { busy: total - idle, total }
}

fn kilobytes(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_time_since_the_last_look() {
        let cpu = Cpu::default();
        assert_eq!(cpu.used_since_last(times("cpu  10 0 10 70 10 0 0 0 5 5\ncpu0 …")), 20.0);
        assert_eq!(cpu.used_since_last(times("cpu  60 0 10 120 10 0 0 0 5 5")), 50.0);
        assert_eq!(cpu.used_since_last(times("cpu  60 0 10 120 10 0 0 0 5 5")), 0.0);
    }
}
