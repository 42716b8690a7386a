//! A guest's side of the host's own conversation with it, as a command's output and end.
#![no_main]

use fuzz::{command, guest_that_says, wait};
use host_agent::guest::OUTPUT_LIMIT;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|words: &[u8]| {
    if let Ok(output) = wait(guest_that_says(words).exec(command())) {
        assert!(output.stdout.len().max(output.stderr.len()) <= OUTPUT_LIMIT);
    }
});
