//! Measures what starting a program costs here, as any plain program would do it. A program of its own: it knows
//! nothing of the agent that started it.

use std::io::{self, Write};
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

/// What was measured, in microseconds.
#[derive(Debug, Serialize)]
struct Report {
    count: usize,
    median_us: u64,
    min_us: u64,
}

/// Starts `cmd` `count` times, waits for each, and prints the times.
pub fn run(count: usize, cmd: &str) -> io::Result<()> {
    let mut times = (0..count).map(|_| once(cmd)).collect::<io::Result<Vec<u64>>>()?;
    times.sort_unstable();
    let (median_us, min_us) = (times[times.len() / 2], times[0]);
    let report = serde_json::to_string(&Report { count, median_us, min_us })?;
    io::stdout().write_all(report.as_bytes())
}

fn once(cmd: &str) -> io::Result<u64> {
    let begun = Instant::now();
    let status = Command::new(cmd).status()?;
    let taken = begun.elapsed();
    if !status.success() {
        return Err(io::Error::other(format!("'{cmd}' ended with {status}")));
    }
    Ok(u64::try_from(taken.as_micros()).unwrap_or(u64::MAX))
}
