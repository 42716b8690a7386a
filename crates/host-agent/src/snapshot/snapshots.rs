//! The snapshots of a host, by id. One that can be found is complete; work on one id is done by one at a time. Knows
//! neither names nor owners: these are the control plane's.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::SnapshotId;
use tokio::sync::watch;

use super::{Frozen, Manifest, SnapshotError, Stage, stage};
use crate::blocking;

/// All snapshots of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    directory: PathBuf,
    /// Those that someone makes or removes now.
    reserved: Arc<watch::Sender<HashSet<SnapshotId>>>,
}

/// The right to make or remove one snapshot, until this is dropped.
#[derive(Debug)]
pub struct Reservation {
    /// Which.
    pub id: SnapshotId,
    directory: PathBuf,
    reserved: Arc<watch::Sender<HashSet<SnapshotId>>>,
}

impl Snapshots {
    /// Those in `data_dir`. Removes what was left unfinished.
    pub fn open(data_dir: &Path) -> Result<Self, SnapshotError> {
        let directory = data_dir.join("snapshots");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(SnapshotError::at("make", &directory))?;
        Stage::sweep(&directory)?;
        Ok(Self { directory, reserved: Arc::new(watch::Sender::new(HashSet::new())) })
    }

    /// The snapshot of that id.
    pub fn get(&self, id: &SnapshotId) -> Result<Frozen, SnapshotError> {
        open(&self.directory, id)
    }

    /// Every snapshot, oldest first. What cannot be read is left out.
    pub fn list(&self) -> Result<Vec<(SnapshotId, Frozen)>, SnapshotError> {
        let failed = || SnapshotError::at("list", &self.directory);
        let mut list = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            // A stage has a dot in its name, and no id has.
            let Some(Ok(id)) = name.to_str().map(str::parse::<SnapshotId>) else { continue };
            match self.get(&id) {
                Ok(frozen) => list.push((id, frozen)),
                // Deleted in this moment.
                Err(SnapshotError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(snapshot = %id, error = &error as &dyn std::error::Error, "a snapshot is unreadable");
                }
            }
        }
        list.sort_by_key(|(_, frozen)| frozen.manifest.created_ms);
        Ok(list)
    }

    /// Waits until nobody else makes or removes the snapshot of that id.
    pub async fn reserve(&self, id: SnapshotId) -> Reservation {
        let mut changes = self.reserved.subscribe();
        while !self.reserved.send_if_modified(|reserved| reserved.insert(id.clone())) {
            // The sender is our own, so there is always a next change.
            let _ = changes.wait_for(|reserved| !reserved.contains(&id)).await;
        }
        Reservation { id, directory: self.directory.clone(), reserved: self.reserved.clone() }
    }

    /// Removes a snapshot. Whoever came from it has links to what it needs.
    pub async fn delete(&self, id: &SnapshotId) -> Result<(), SnapshotError> {
        let reservation = self.reserve(id.clone()).await;
        let home = reservation.home();
        if !home.exists() {
            return Err(SnapshotError::NotFound(id.clone()));
        }
        let remove = blocking::run(move || {
            let removed = stage::retract(&reservation.home());
            drop(reservation);
            removed
        });
        remove.await.map_err(|error| SnapshotError::at("remove", &home)(error.into()))?
    }
}

fn open(snapshots: &Path, id: &SnapshotId) -> Result<Frozen, SnapshotError> {
    let directory = snapshots.join(id.as_str());
    match Manifest::read(&directory) {
        Ok(manifest) => Ok(Frozen { directory, manifest }),
        Err(SnapshotError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(SnapshotError::NotFound(id.clone()))
        }
        Err(error) => Err(error),
    }
}

impl Reservation {
    /// The snapshot, once it was published.
    pub fn get(&self) -> Result<Frozen, SnapshotError> {
        open(&self.directory, &self.id)
    }

    /// Where the snapshot is, or is to be.
    fn home(&self) -> PathBuf {
        self.directory.join(self.id.as_str())
    }

    /// An empty stage for it.
    pub fn stage(&self) -> Result<Stage, SnapshotError> {
        Stage::new(&self.home())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reserved.send_if_modified(|reserved| reserved.remove(&self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::origin;
    use super::*;

    async fn make(snapshots: &Snapshots, id: &SnapshotId) {
        let reservation = snapshots.reserve(id.clone()).await;
        let stage = reservation.stage().unwrap();
        Manifest::new(origin()).write(stage.path()).unwrap();
        stage.publish().unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_is_there_from_its_publishing_to_its_removal_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (snapshots, id) = (Snapshots::open(directory.path()).unwrap(), SnapshotId::random());
        assert!(matches!(snapshots.get(&id), Err(SnapshotError::NotFound(_))));
        make(&snapshots, &id).await;
        std::mem::forget(snapshots.reserve(SnapshotId::random()).await.stage().unwrap());
        assert_eq!(snapshots.list().unwrap().len(), 1, "what is staged is not there yet");
        let snapshots = Snapshots::open(directory.path()).unwrap();
        assert_eq!(snapshots.list().unwrap()[0].0, id);
        assert_eq!(fs::read_dir(directory.path().join("snapshots")).unwrap().count(), 1, "what was staged is swept");
        snapshots.delete(&id).await.unwrap();
        assert!(matches!(snapshots.delete(&id).await, Err(SnapshotError::NotFound(_))));
        assert_eq!(fs::read_dir(directory.path().join("snapshots")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_deletion_waits_for_the_making() {
        let directory = tempfile::tempdir().unwrap();
        let (snapshots, id) = (Snapshots::open(directory.path()).unwrap(), SnapshotId::random());
        let reservation = snapshots.reserve(id.clone()).await;
        let deletion = snapshots.delete(&id);
        tokio::pin!(deletion);
        assert!(futures::poll!(&mut deletion).is_pending());
        let stage = reservation.stage().unwrap();
        Manifest::new(origin()).write(stage.path()).unwrap();
        stage.publish().unwrap();
        drop(reservation);
        deletion.await.unwrap();
        assert!(snapshots.list().unwrap().is_empty());
    }
}
