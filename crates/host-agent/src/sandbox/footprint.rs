//! What a running sandbox costs its host, as the kernel counts it for the monitor's process.

use std::fs;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmm::Vm;

use super::UseError;
use super::confinement::Confinement;
use super::metrics::ticks;

/// The unit of processor time in `/proc` on every Linux that runs on x86-64.
const TICK: Duration = Duration::from_millis(10);

/// How a virtual machine came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Its kernel was booted.
    #[default]
    Boot,
    /// It was restored from a baked image or a snapshot.
    Restore,
    /// It was claimed from the warm pool.
    Pool,
    /// It was paused before.
    Resume,
}

impl Start {
    /// Its name in RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Restore => "restore",
            Self::Pool => "pool",
            Self::Resume => "resume",
        }
    }
}

/// What a sandbox costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of memory; a page that several processes map counts in parts.
    pub pss_bytes: u64,
    /// Processor time since the monitor started.
    pub cpu: Duration,
    /// From the monitor's start to its first answer.
    pub monitor_start: Duration,
    /// How it came to be.
    pub start: Start,
    /// What was waited for jail and fence meanwhile; nothing where an earlier run started it.
    pub confinement: Confinement,
}

/// Why it is not known what a sandbox costs.
#[derive(Debug, thiserror::Error)]
pub enum FootprintError {
    /// There is no such sandbox, or it does not run.
    #[error(transparent)]
    Use(#[from] UseError),
    /// The kernel does not say.
    #[error("read what the monitor uses")]
    Look(#[source] io::Error),
}

impl Footprint {
    /// As it is now.
    pub(super) fn of(vm: &dyn Vm, start: Start, confinement: Confinement) -> io::Result<Self> {
        let pid = vm.process().pid().ok_or(io::ErrorKind::Unsupported)?;
        let garbled = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss_kib = pss_kib(&memory).ok_or_else(|| garbled("no Pss"))?;
        let used = ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).ok_or_else(|| garbled("no times"))?;
        let cpu = TICK * u32::try_from(used).unwrap_or(u32::MAX);
        Ok(Self { pss_bytes: pss_kib * 1024, cpu, monitor_start: vm.first_answer(), start, confinement })
    }
}

fn pss_kib(smaps_rollup: &str) -> Option<u64> {
    let value = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sum_is_understood() {
        let text = "00400000-7fff ---p 00000000 00:00 0 [rollup]\nRss:  9 kB\nPss:     1234 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(pss_kib(text), Some(1234));
        let own = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        assert!(pss_kib(&own).unwrap() > 0);
    }
}
