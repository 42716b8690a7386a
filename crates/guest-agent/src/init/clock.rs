//! The sandbox's clock, which stood still while the sandbox did.

use buffa_types::google::protobuf::Timestamp;
use rustix::io;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const SECOND: i128 = 1_000_000_000;
/// A guest that is further behind than this is set.
const BEHIND: i128 = SECOND / 20;
/// A guest that is further ahead than this is set. Time that goes back disturbs programs, hence the patience.
const AHEAD: i128 = 5 * SECOND;

/// Sets the clock to the host's, when it is far enough off.
pub fn follow(host: &Timestamp) -> io::Result<()> {
    let now = clock_gettime(ClockId::Realtime);
    if needs_setting(nanoseconds(now.tv_sec, now.tv_nsec), nanoseconds(host.seconds, host.nanos.into())) {
        return clock_settime(ClockId::Realtime, Timespec { tv_sec: host.seconds, tv_nsec: host.nanos.into() });
    }
    Ok(())
}

fn nanoseconds(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * SECOND + i128::from(nanos)
}

fn needs_setting(guest: i128, host: i128) -> bool {
    !(-AHEAD..=BEHIND).contains(&(host - guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_stay() {
        let check = |guest: i128, host: i128, expect| assert_eq!(needs_setting(guest, host), expect, "{guest} {host}");
        check(0, BEHIND, false);
        check(0, BEHIND + 1, true);
        check(AHEAD, 0, false);
        check(AHEAD + 1, 0, true);
        check(0, 0, false);
    }
}
