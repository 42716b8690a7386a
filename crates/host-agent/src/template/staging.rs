//! Where builds work, and locks between them. A lock belongs to an open file, so that the kernel releases it whatever
//! becomes of its holder; that tells a build at work from the leftovers of a killed one. The programs of a killed build
//! may run on for a while and hold its lock: their directory goes with a later sweep.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio_util::sync::CancellationToken;

use super::digest::random_hex;
use super::durable;
use super::error::{BuildError, FileError};
use super::layout::{Layout, STAGING_PREFIX};

/// How often a waiting build looks whether the other is done.
const POLL: Duration = Duration::from_millis(100);

/// A lock between builds, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    /// Takes the lock, or answers none when somebody has it.
    pub fn try_take(path: &Path) -> Result<Option<Self>, FileError> {
        let file = open(path)?;
        let taken = try_lock(&file, path)?;
        Ok(taken.then_some(Self(file)))
    }

    /// Takes the lock when it is free; `on_wait` is called once if it is not.
    pub async fn take(path: &Path, cancel: &CancellationToken, on_wait: impl FnOnce()) -> Result<Self, BuildError> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(lock);
        }
        on_wait();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(BuildError::Interrupted),
                () = tokio::time::sleep(POLL) => {}
            }
            if let Some(lock) = Self::try_take(path)? {
                return Ok(lock);
            }
        }
    }
}

fn open(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(FileError::at("opening", path))
}

fn try_lock(file: &File, path: &Path) -> Result<bool, FileError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(FileError::at("locking", path)(error.into())),
    }
}

/// A directory of one build's own, removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    lock: File,
}

impl Staging {
    /// A new directory, beside the templates so that what is finished can be renamed.
    pub fn create(layout: &Layout) -> Result<Self, FileError> {
        let path = layout.templates().join(format!("{STAGING_PREFIX}{}", random_hex()));
        // A sweep between the two would take it for a leftover.
        let _guard = sweep_guard(layout)?;
        fs::create_dir(&path).map_err(FileError::at("making", &path))?;
        let lock = open(&path.join("lock"))?;
        try_lock(&lock, &path)?;
        Ok(Self { path, lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For the programs of the build to hold as well.
    pub fn lock(&self) -> &File {
        &self.lock
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a build's directory is left for the next sweep");
        }
    }
}

/// Removes the directories of builds that are no longer at work.
pub(super) fn sweep(layout: &Layout) -> Result<(), FileError> {
    let _guard = sweep_guard(layout)?;
    for path in durable::entries(&layout.templates())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(STAGING_PREFIX) && is_abandoned(&path)? {
            durable::remove_directory(&path)?;
        }
    }
    Ok(())
}

fn is_abandoned(staging: &Path) -> Result<bool, FileError> {
    let lock = staging.join("lock");
    match File::open(&lock) {
        Ok(file) => try_lock(&file, &lock),
        Err(_) => Ok(true),
    }
}

/// Held for moments only, so that waiting for it need not be cancellable.
fn sweep_guard(layout: &Layout) -> Result<File, FileError> {
    let path = layout.locks().join(".sweep");
    let file = open(&path)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| FileError::at("locking", path)(error.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        durable::make_directory(&layout.locks()).unwrap();
        (directory, layout)
    }

    #[test]
    fn leftovers_are_swept_and_builds_at_work_and_templates_are_not() {
        let (_directory, layout) = layout();
        let alive = Staging::create(&layout).unwrap();
        let dead = layout.templates().join(".staging-dead");
        fs::create_dir_all(dead.join("tree/etc")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        let killed_early = layout.templates().join(".staging-early");
        fs::create_dir(&killed_early).unwrap();
        fs::create_dir(layout.templates().join("minimal")).unwrap();
        sweep(&layout).unwrap();
        assert!(alive.path().exists() && layout.templates().join("minimal").exists());
        assert!(!dead.exists() && !killed_early.exists());
    }

    #[test]
    fn a_directory_stays_locked_while_a_program_of_the_build_lives() {
        let (_directory, layout) = layout();
        let staging = Staging::create(&layout).unwrap();
        let stdin = staging.lock().try_clone().unwrap();
        let mut program = std::process::Command::new("sleep").arg("1000").stdin(stdin).spawn().unwrap();
        let path = staging.path().to_owned();
        // As if this process had been killed: its own descriptor is gone and nobody cleaned up.
        let Staging { lock, .. } = &mut *std::mem::ManuallyDrop::new(staging);
        *lock = tempfile::tempfile().unwrap();
        sweep(&layout).unwrap();
        let was_kept = path.exists();
        program.kill().unwrap();
        program.wait().unwrap();
        sweep(&layout).unwrap();
        assert!(was_kept && !path.exists());
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let (_directory, layout) = layout();
        let path = layout.locks().join("minimal");
        let cancel = CancellationToken::new();
        let first = Lock::try_take(&path).unwrap().unwrap();
        let mut first = Some(first);
        let second = Lock::take(&path, &cancel, || drop(first.take())).await;
        assert!(second.is_ok() && first.is_none());
    }

    #[tokio::test]
    async fn waiting_can_be_cancelled() {
        let (_directory, layout) = layout();
        let path = layout.locks().join("minimal");
        let cancel = CancellationToken::new();
        let _held = Lock::try_take(&path).unwrap().unwrap();
        let waited = Lock::take(&path, &cancel, || cancel.cancel()).await;
        assert!(matches!(waited, Err(BuildError::Interrupted)));
    }
}
