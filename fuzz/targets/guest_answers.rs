//! A guest's answers over HTTP: what it is asked for when it is made and measured, and a file's content.
#![no_main]

use fuzz::{guest_that_says, wait};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|words: &[u8]| {
    let guest = guest_that_says(words);
    wait(async {
        let _ = guest.memory_used().await;
        let _ = guest.set_clock().await;
        let _ = guest.read_file("/etc/hostname").await;
    });
});
