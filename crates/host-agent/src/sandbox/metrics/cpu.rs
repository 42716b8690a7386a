//! Processor time of a process, from /proc.

use std::time::Instant;

/// The unit of /proc on every Linux that runs on x86-64.
const TICKS_PER_SECOND: f64 = 100.0;

/// Remembers the last look: a share is of the time since then.
#[derive(Debug, Default)]
pub(super) struct Cpu(Option<(Instant, u64)>);

impl Cpu {
    /// The share, in percent of `vcpus` processors, that was used since the last look; none at the first.
    pub fn used_since_last(&mut self, now: Instant, ticks: u64, vcpus: u32) -> Option<f64> {
        let (then, before) = self.0.replace((now, ticks))?;
        let seconds = now.saturating_duration_since(then).as_secs_f64();
        let used = ticks.saturating_sub(before) as f64 / TICKS_PER_SECOND;
        (seconds > 0.0).then(|| (used / seconds / f64::from(vcpus) * 100.0).clamp(0.0, 100.0))
    }

    /// The time until the next look does not count.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

/// User and system time of all threads, from the text of `/proc/PID/stat`.
pub(in crate::sandbox) fn ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, brackets and spaces included.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_share_is_of_all_vcpus_and_of_the_time_since_the_last_look() {
        let (mut cpu, start) = (Cpu::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(cpu.used_since_last(at(0), 1000, 2), None);
        assert_eq!(cpu.used_since_last(at(1), 1100, 2), Some(50.0));
        assert_eq!(cpu.used_since_last(at(3), 1150, 2), Some(12.5));
        assert_eq!(cpu.used_since_last(at(4), 2000, 2), Some(100.0), "the monitor's own work is not the guest's");
        cpu.forget();
        assert_eq!(cpu.used_since_last(at(5), 3000, 2), None);
    }

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 9 1 2";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (qemu"), None);
        assert!(ticks(&std::fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }
}
