//! What has to be known of the machine itself.

use std::fs;
use std::io;

/// The id of the machine's present boot: of what an earlier one ran, only files are left, and its process ids mean nothing.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
