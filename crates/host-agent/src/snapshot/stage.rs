//! A directory that is being filled and becomes visible in one step, complete and durable, or not at all.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::SnapshotError;

/// A directory beside its future place. Removed with all that is in it when this is dropped before it was published.
#[derive(Debug)]
pub struct Stage {
    path: PathBuf,
    home: PathBuf,
    is_published: bool,
}

/// What tells a stage from what was published.
const SUFFIX: &str = ".staged";

impl Stage {
    /// Makes an empty one, in place of what an earlier one left.
    pub fn new(home: &Path) -> Result<Self, SnapshotError> {
        let path = staged(home);
        remove(&path)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(SnapshotError::at("make", &path))?;
        Ok(Self { path, home: home.to_owned(), is_published: false })
    }

    /// Where it is filled.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its place. The files in it must be durable already.
    pub fn publish(mut self) -> Result<(), SnapshotError> {
        sync(&self.path)?;
        fs::rename(&self.path, &self.home).map_err(SnapshotError::at("rename to", &self.home))?;
        if let Err(error) = self.home.parent().map_or(Ok(()), sync) {
            // What may be gone after a power cut was never published.
            let _ = fs::rename(&self.home, &self.path);
            return Err(error);
        }
        self.is_published = true;
        Ok(())
    }

    /// Removes what a killed program left unpublished of `home`.
    pub fn undo(home: &Path) -> Result<(), SnapshotError> {
        remove(&staged(home))
    }

    /// Removes what killed programs left unpublished in `directory`.
    pub(super) fn sweep(directory: &Path) -> Result<(), SnapshotError> {
        let failed = || SnapshotError::at("list", directory);
        for entry in fs::read_dir(directory).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.to_string_lossy().ends_with(SUFFIX) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.is_published
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "an unfinished capture is left");
        }
    }
}

/// Takes what was published out of sight, durably, and then removes it.
pub(super) fn retract(home: &Path) -> Result<(), SnapshotError> {
    let path = staged(home);
    remove(&path)?;
    fs::rename(home, &path).map_err(SnapshotError::at("rename", home))?;
    home.parent().map_or(Ok(()), sync)?;
    remove(&path)
}

/// Where what is to be `home` is while it is not.
fn staged(home: &Path) -> PathBuf {
    let mut path = home.as_os_str().to_owned();
    path.push(SUFFIX);
    PathBuf::from(path)
}

/// Makes the entries of a directory durable.
fn sync(directory: &Path) -> Result<(), SnapshotError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(SnapshotError::at("sync", directory))
}

/// Removes a directory if it is there.
pub(super) fn remove(directory: &Path) -> Result<(), SnapshotError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SnapshotError::at("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_published_whole_or_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let stage = Stage::new(&home).unwrap();
        fs::write(stage.path().join("file"), b"x").unwrap();
        drop(stage);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let stage = Stage::new(&home).unwrap();
        fs::write(stage.path().join("file"), b"x").unwrap();
        std::mem::forget(stage);
        Stage::sweep(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        Stage::new(&home).unwrap().publish().unwrap();
        assert!(home.is_dir());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        retract(&home).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
