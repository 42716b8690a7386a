//! The rate of the host's time stamp counter. Under TCG guests see that counter, and calibrating it against an emulated
//! timer fails on a busy host; so the host measures and the guest is told.
#![allow(unsafe_code)]

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

const INTERVAL: Duration = Duration::from_millis(100);

/// Counts per millisecond, right to about ten parts in a million. Takes a tenth of a second.
pub(super) fn measure_khz() -> u64 {
    let (first_tick, first_nanos) = read_both();
    std::thread::park_timeout(INTERVAL);
    loop {
        let (tick, nanos) = read_both();
        let elapsed = nanos - first_nanos;
        if elapsed >= INTERVAL.as_nanos() {
            return u64::try_from(u128::from(tick - first_tick) * 1_000_000 / elapsed).unwrap_or(u64::MAX);
        }
    }
}

/// Counter and raw clock (nanoseconds), read as close together as a few tries allow.
fn read_both() -> (u64, u128) {
    (0..50)
        .map(|_| {
            let before = counter();
            let nanos = raw_nanos();
            let after = counter();
            (after - before, before + (after - before) / 2, nanos)
        })
        .min()
        .map_or((0, 0), |(_, tick, nanos)| (tick, nanos))
}

/// Not slewed by time synchronisation: the counter is not either.
fn raw_nanos() -> u128 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    u128::from(time.tv_sec.unsigned_abs()) * 1_000_000_000 + u128::from(time.tv_nsec.unsigned_abs())
}

fn counter() -> u64 {
    // SAFETY: reading the counter has no precondition on x86-64 and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_measurements_agree_closely() {
        let (one, two) = (super::measure_khz(), super::measure_khz());
        assert!(one > 100_000, "{one} kHz");
        assert!(one.abs_diff(two) * 1000 < one, "{one} and {two} differ by more than 0.1 %");
    }
}
