//! What the C library says of time and chance, to the one thread of a simulation: its own time, which passes only when
//! nothing else happens, and numbers that follow from a seed. All other threads hear the truth.
//!
//! The functions here stand in front of the C library's because they are the program's own. The standard library, and
//! so every clock, id, token and order of a hash table in the product, goes by them. Files are not made durable either:
//! the machine under a simulation does not lose power.
#![allow(unsafe_code, reason = "functions of the C library have pointers; they are given by whoever calls them")]

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::ClockId;
use tokio::time::Instant;

/// When every history begins: in the year 2026.
const EPOCH_NS: i64 = 1_780_000_000_000_000_000;

/// What a machine that has been up for a while says.
const UPTIME_NS: i64 = 1_000_000_000_000;

thread_local! {
    /// The state of the sequence of numbers; none on threads that are no simulation.
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Set while a clock is asked that asks this one.
    static IS_ASKING: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    /// How often the same time was asked for.
    static ASKED: Cell<(i64, u32)> = const { Cell::new((0, 0)) };
}

/// Who asks so often waits in a loop for time to pass, as those do who measure a clock, and is told that it did.
const ENOUGH: u32 = 20_000;

/// Longer than anybody measures.
const LONG_NS: i64 = 1_000_000_000;

/// How far the wall clock was set forward since the beginning.
static SET_FORWARD_NS: AtomicI64 = AtomicI64::new(0);

/// From here on this thread is a simulation.
pub fn enter(seed: u64) {
    CHANCE.set(Some(seed));
}

/// From here on time passes as the runtime that this is called in says.
pub fn follow_runtime() {
    BEGAN.set(Some(Instant::now()));
}

/// Since the beginning.
pub fn elapsed() -> Duration {
    Duration::from_nanos(u64::try_from(elapsed_ns()).unwrap_or_default())
}

/// Sets the wall clock, forward or back.
pub fn set_wall_clock(seconds: i64) {
    SET_FORWARD_NS.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
}

/// The next number of a sequence (SplitMix64).
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn elapsed_ns() -> i64 {
    let Some(began) = BEGAN.get() else { return 0 };
    if IS_ASKING.replace(true) {
        return 0;
    }
    let elapsed = Instant::now().saturating_duration_since(began);
    IS_ASKING.set(false);
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

/// A time; a later one where it was asked for again and again.
fn asked_again(now: i64) -> i64 {
    let (last, count) = ASKED.get();
    let count = if last == now { count + 1 } else { 0 };
    let is_enough = count > ENOUGH;
    ASKED.set((now, if is_enough { 0 } else { count }));
    if is_enough { now + LONG_NS } else { now }
}

fn is_simulation() -> bool {
    CHANCE.get().is_some()
}

/// `struct timespec`.
#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: i32, to: *mut TimeSpec) -> i32 {
    let answer = match (is_simulation(), clock) {
        (true, 0 | 5 | 11) => of_ns(EPOCH_NS + SET_FORWARD_NS.load(Ordering::Relaxed) + elapsed_ns()),
        (true, _) => of_ns(UPTIME_NS + asked_again(elapsed_ns())),
        (false, _) => {
            let Some(clock) = known(clock) else { return -1 };
            let time = rustix::time::clock_gettime(clock);
            TimeSpec { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
        }
    };
    // SAFETY: The caller gives a place for the answer, as the C library's function of this name asks for.
    unsafe { to.write(answer) };
    0
}

fn of_ns(ns: i64) -> TimeSpec {
    TimeSpec { seconds: ns / 1_000_000_000, nanoseconds: ns % 1_000_000_000 }
}

fn known(clock: i32) -> Option<ClockId> {
    Some(match clock {
        0 => ClockId::Realtime,
        1 => ClockId::Monotonic,
        2 => ClockId::ProcessCPUTime,
        3 => ClockId::ThreadCPUTime,
        4 => ClockId::MonotonicRaw,
        5 => ClockId::RealtimeCoarse,
        6 => ClockId::MonotonicCoarse,
        7 => ClockId::Boottime,
        _ => return None,
    })
}

#[unsafe(no_mangle)]
extern "C" fn getrandom(to: *mut u8, length: usize, flags: u32) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: The caller gives a place for as many bytes, as the C library's function of this name asks for.
    let to = unsafe { std::slice::from_raw_parts_mut(to, length) };
    match CHANCE.get() {
        Some(mut state) => {
            for bytes in to.chunks_mut(8) {
                bytes.copy_from_slice(&next(&mut state).to_le_bytes()[..bytes.len()]);
            }
            CHANCE.set(Some(state));
            length.cast_signed()
        }
        None => {
            let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
            rustix::rand::getrandom(to, flags).map_or(-1, usize::cast_signed)
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: i32) -> i32 {
    // SAFETY: The caller gives an open file, as the C library's function of this name asks for.
    make_durable(|| rustix::fs::fsync(unsafe { BorrowedFd::borrow_raw(file) }))
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: i32) -> i32 {
    // SAFETY: The caller gives an open file, as the C library's function of this name asks for.
    make_durable(|| rustix::fs::fdatasync(unsafe { BorrowedFd::borrow_raw(file) }))
}

fn make_durable(sync: impl FnOnce() -> rustix::io::Result<()>) -> i32 {
    if is_simulation() || sync().is_ok() { 0 } else { -1 }
}
