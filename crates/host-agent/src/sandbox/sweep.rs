//! What an earlier run left on this host, looked at when the host agent starts. Paused sandboxes are kept; monitors,
//! networks and directories of all others are removed, because nobody owns them any more. Touches only what carries
//! this installation's id or lies in its data directory.
//!
//! What a directory is follows from its files alone, whenever the earlier run was cut:
//!
//! ```text
//! paused/ is there       paused: a monitor that still runs has loaded, at most, and is ended
//! spent/ without paused/ had been resumed, and memory and disk have moved on: ended
//! neither                ran, or was not finished: ended
//! no record.json         was being deleted: the rest of it goes
//! ```

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vmm::{ProcessIdentity, VmmProcess};

use super::parts::{IDENTITY_FILE, MEMORY_FILE, OVERLAY_FILE};
use super::pause::{PAUSED, SPENT, give_room_back};
use super::record::{RECORD, Record};
use crate::egress;
use crate::host::Host;
use crate::snapshot::Manifest;

/// What could not be swept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A sandbox's directory.
    #[error("remove what is left in {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Networks.
    #[error("remove networks that are left")]
    Network(#[from] crate::net::RemoveError),
}

/// A paused sandbox that an earlier run left.
#[derive(Debug)]
pub struct Found {
    pub(super) directory: PathBuf,
    pub(super) record: Record,
}

/// Removes everything but paused sandboxes. To be called before the first sandbox is made.
pub async fn sweep(host: &Host) -> Result<Vec<Found>, SweepError> {
    let sandboxes = host.sandboxes_dir();
    let mut found = Vec::new();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SweepError::Directory { path, source }
    };
    for entry in fs::read_dir(&sandboxes).map_err(failed(&sandboxes))? {
        let directory = entry.map_err(failed(&sandboxes))?.path();
        for process in processes_of(&directory) {
            tracing::info!(directory = %directory.display(), "ending a process that an earlier run left");
            process.kill().await;
        }
        found.extend(look(directory.clone()).map_err(failed(&directory))?);
    }
    // Paused ones get another when they are resumed.
    host.network.sweep(&HashSet::new()).await?;
    host.cgroups.sweep();
    Ok(found)
}

/// Says which paused sandbox a directory is of, and removes what is of none.
fn look(directory: PathBuf) -> io::Result<Option<Found>> {
    let paused = directory.join(PAUSED);
    if !paused.is_dir() || !directory.join(RECORD).exists() {
        if directory.join(SPENT).is_dir() {
            let directory = directory.display();
            tracing::warn!(%directory, "a sandbox had been resumed when the last run was cut, and is not kept");
        }
        return fs::remove_dir_all(&directory).map(|()| None);
    }
    let readable = Manifest::read(&paused).map_err(io::Error::other).and_then(|_| Record::read(&directory));
    match readable {
        Ok(record) => {
            tidy(&directory, &record)?;
            tracing::info!(sandbox = %record.spec.id, "a paused sandbox is kept");
            Ok(Some(Found { directory, record }))
        }
        // Perhaps a newer version's: whatever it is, it is somebody's.
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "a paused sandbox cannot be read and is left alone");
            Ok(None)
        }
    }
}

/// Leaves of a paused sandbox what it consists of. A pause that was cut after its point of no return had not come to it.
fn tidy(directory: &Path, record: &Record) -> io::Result<()> {
    let own = [RECORD, PAUSED, MEMORY_FILE, OVERLAY_FILE];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_own = own.iter().any(|name| entry.file_name() == *name);
        let is_layer = record.layers.iter().any(|layer| entry.file_name() == *layer.name);
        match entry.file_type()?.is_dir() {
            _ if is_own || is_layer => {}
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    give_room_back(directory);
    Ok(())
}

/// The processes whose identities the directory holds and that still run: a monitor, a resolver and proxy.
fn processes_of(directory: &Path) -> Vec<VmmProcess> {
    let open = |name: &str| -> Option<VmmProcess> {
        let identity: ProcessIdentity = serde_json::from_slice(&fs::read(directory.join(name)).ok()?).ok()?;
        VmmProcess::open(identity).ok()
    };
    [IDENTITY_FILE, egress::IDENTITY_FILE].into_iter().filter_map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::snapshot::manifest_tests::origin;

    /// A directory as a host agent may leave it, with these entries; those that end in a slash are directories.
    fn left(sandboxes: &Path, entries: &[&str]) -> PathBuf {
        let directory = sandboxes.join("sb1");
        fs::create_dir(&directory).unwrap();
        for entry in entries {
            match entry.strip_suffix('/') {
                Some(name) => fs::create_dir(directory.join(name)).unwrap(),
                None => fs::write(directory.join(entry), "").unwrap(),
            }
            match *entry {
                "paused/" => Manifest::new(origin()).write(&directory.join(PAUSED)).unwrap(),
                RECORD => record("sb1").write(&directory).unwrap(),
                _ => {}
            }
        }
        directory
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn wherever_the_last_run_was_cut_a_directory_is_kept_as_paused_or_goes() {
        let whole = ["layer0.qcow2", "memory", "overlay.qcow2", "paused", "record.json"];
        let check = |entries: &[&str], expect: &[&str]| {
            let sandboxes = tempfile::tempdir().unwrap();
            let directory = left(sandboxes.path(), entries);
            let found = look(directory.clone()).unwrap();
            assert_eq!(found.is_some(), !expect.is_empty(), "{entries:?}");
            assert_eq!(names(&directory), expect, "{entries:?}");
            assert_eq!(directory.exists(), !expect.is_empty(), "{entries:?}");
        };
        let running = ["record.json", "overlay.qcow2", "layer0.qcow2", "frozen-memory", "vmm.json", "qmp.sock"];
        // Never finished, or running.
        check(&["record.json"], &[]);
        check(&running, &[]);
        // Within a pause, before its point of no return and after it.
        check(&[&running[..], &["paused.staged/", "memory.written"]].concat(), &[]);
        check(&[&running[..], &["paused.staged/", "memory"]].concat(), &[]);
        check(&[&running[..], &["paused/", "memory"]].concat(), &whole);
        // Paused; within a resume, before its point of no return and after it; with what an earlier one left.
        check(&["record.json", "overlay.qcow2", "layer0.qcow2", "memory", "paused/"], &whole);
        check(&["record.json", "overlay.qcow2", "layer0.qcow2", "memory", "paused/", "vmm.json"], &whole);
        check(&["record.json", "overlay.qcow2", "layer0.qcow2", "memory", "spent/", "vmm.json"], &[]);
        check(&["record.json", "overlay.qcow2", "layer0.qcow2", "memory", "spent/", "paused/"], &whole);
        // Within a deletion.
        check(&["overlay.qcow2", "layer0.qcow2", "memory", "paused/"], &[]);
    }

    #[test]
    fn a_paused_sandbox_that_cannot_be_read_is_left_alone() {
        let sandboxes = tempfile::tempdir().unwrap();
        let directory = left(sandboxes.path(), &["record.json", "overlay.qcow2", "memory", "paused/", "other"]);
        fs::write(directory.join("paused/manifest.json"), "{\"format\": 99}").unwrap();
        let before = names(&directory);
        assert!(look(directory.clone()).unwrap().is_none());
        assert_eq!(names(&directory), before);
    }
}
