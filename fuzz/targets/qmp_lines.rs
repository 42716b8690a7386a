//! What a monitor that was taken over says on its control socket.
#![no_main]

use fuzz::wait;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| wait(vmm::qemu::fuzzing::converse(lines)));
