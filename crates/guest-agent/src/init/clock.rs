//! The sandbox's clock, which stood still while the sandbox did, and drifts. Small differences are made up for slowly,
//! so that time never goes back for programs; large ones at once.
#![allow(unsafe_code)]

use std::io;

use buffa_types::google::protobuf::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const SECOND: i128 = 1_000_000_000;
/// A guest that is further behind than this is set.
const BEHIND: i128 = SECOND / 20;
/// A guest that is further ahead than this is set. Time that goes back disturbs programs, hence the patience.
const AHEAD: i128 = 5 * SECOND;

/// What brings the clock to the host's.
#[derive(Debug, PartialEq, Eq)]
enum Correction {
    /// Set it.
    Step,
    /// Let it run faster or slower until it has gained so many microseconds. The kernel gives half a millisecond in
    /// each second, and forgets what was left of the correction before.
    Slew(i64),
}

/// Brings the clock to the host's.
pub fn follow(host: &Timestamp) -> io::Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    match correction(nanoseconds(now.tv_sec, now.tv_nsec), nanoseconds(host.seconds, host.nanos.into())) {
        Correction::Step => {
            clock_settime(ClockId::Realtime, Timespec { tv_sec: host.seconds, tv_nsec: host.nanos.into() })?;
            // What a slower correction had left would now lead away.
            slew(0)
        }
        Correction::Slew(microseconds) => slew(microseconds),
    }
}

fn slew(microseconds: i64) -> io::Result<()> {
    // SAFETY: all-zero is a valid timex, and the kernel writes only to it.
    let done = unsafe {
        let mut change: libc::timex = std::mem::zeroed();
        change.modes = libc::ADJ_OFFSET_SINGLESHOT;
        change.offset = microseconds;
        libc::adjtimex(&mut change)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn nanoseconds(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * SECOND + i128::from(nanos)
}

fn correction(guest: i128, host: i128) -> Correction {
    let behind = host - guest;
    match i64::try_from(behind / 1000) {
        Ok(microseconds) if (-AHEAD..=BEHIND).contains(&behind) => Correction::Slew(microseconds),
        _ => Correction::Step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_made_up_for_and_large_ones_corrected() {
        let check = |guest: i128, host: i128, expect| assert_eq!(correction(guest, host), expect, "{guest} {host}");
        check(0, BEHIND, Correction::Slew(50_000));
        check(0, BEHIND + 1, Correction::Step);
        check(AHEAD, 0, Correction::Slew(-5_000_000));
        check(AHEAD + 1, 0, Correction::Step);
        check(SECOND, SECOND + 1_999, Correction::Slew(1));
        check(0, i128::MAX / 2, Correction::Step);
    }
}
