//! Writing files so that they are complete or absent after a crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes a file beside its place, makes it durable and moves it in.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let staging = path.with_extension("new");
    let mut file = File::create(&staging)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staging, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
