//! What files take, each counted once however many names it has.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The files that were counted already.
#[derive(Debug, Default)]
pub(super) struct Walk {
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    /// What is allocated to a directory and everything in it, as far as it was not counted before.
    pub fn bytes(&mut self, path: &Path) -> io::Result<u64> {
        let Some(metadata) = unless_gone(fs::symlink_metadata(path))? else { return Ok(0) };
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(0);
        }
        let mut bytes = metadata.blocks() * 512;
        if metadata.is_dir() {
            for entry in unless_gone(fs::read_dir(path))?.into_iter().flatten() {
                bytes += self.bytes(&entry?.path())?;
            }
        }
        Ok(bytes)
    }
}

/// Sandboxes come and go while others look.
pub(super) fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}
