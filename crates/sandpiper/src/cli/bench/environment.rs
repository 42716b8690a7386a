//! The machine that a benchmark ran on: figures mean nothing without it.

use std::fmt;
use std::fs;

use client::Health;
use serde::Serialize;

/// The machine that the benchmark itself runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_mib: u64,
    kernel: String,
}

/// What figures of a server depend on. The machine is the one that the benchmark runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Environment {
    #[serde(flatten)]
    machine: Machine,
    accelerator: String,
    vmm_version: String,
}

impl Machine {
    /// Asks the kernel.
    pub fn read() -> Self {
        let file = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: value(&file("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_mib(&file("/proc/meminfo")),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl Environment {
    /// What guests execute on: `kvm` or `tcg`.
    pub fn accelerator(&self) -> &str {
        &self.accelerator
    }
}

/// Asks this machine, and the server by its health.
pub fn read(health: &Health) -> Environment {
    Environment {
        machine: Machine::read(),
        accelerator: health.accelerator.clone(),
        vmm_version: health.vmm_version.clone(),
    }
}

/// What stands after `key` and its colon, at its first occurrence.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn memory_mib(meminfo: &str) -> u64 {
    let number = value(meminfo, "MemTotal").and_then(|text| text.split_whitespace().next());
    number.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1024
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} cores, {} MiB, Linux {}", self.cpu, self.cores, self.memory_mib, self.kernel)
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let (accelerator, vmm) = (or_unknown(&self.accelerator), or_unknown(&self.vmm_version));
        write!(f, "{}; accelerator {accelerator}, {vmm}", self.machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_understood() {
        assert_eq!(value("processor\t: 0\nmodel name\t: X: 2\nmodel name\t: Y\n", "model name"), Some("X: 2"));
        assert_eq!(memory_mib("MemTotal:        8146068 kB\nMemFree: 1 kB\n"), 7955);
        assert_eq!(memory_mib(""), 0);
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let environment = read(&Health { accelerator: "tcg".into(), ..Health::default() });
        let machine = &environment.machine;
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
        assert!(environment.to_string().contains("accelerator tcg, unknown"));
    }
}
