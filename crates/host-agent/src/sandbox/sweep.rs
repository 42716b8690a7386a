//! What an earlier run left on this host, looked at when the host agent starts. Sandboxes that run or are paused are kept;
//! monitors, networks and directories of all others are removed, because nobody owns them any more. Touches only what
//! carries this installation's id or lies in its data directory.
//!
//! What a directory is follows from its files alone, whenever the earlier run was cut. The first line that holds decides:
//!
//! ```text
//! no record.json             was being deleted, or never begun: the rest of it goes
//! paused/ is there           paused: a monitor that still runs has loaded, at most, and is ended
//! the record has no `run`    was being made, or was nobody's yet: it goes
//! the record says stopped    stopped: a monitor that still runs is ended, and its disk is kept; so is one that was being
//!                            started
//! of an earlier boot         ran when the machine went down: as if stopped
//! the monitor runs           running: adopted. With `unsettled` it was being paused, captured, resumed or claimed: it goes
//!                            on, and its guest is told again who it is
//! the monitor is gone        lost: in error until someone deletes it
//! ```
//!
//! Sandboxes of the warm pool and those that images are baked of are in the third line.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use model::SandboxId;
use vmm::{ProcessIdentity, VmmProcess};

use super::parts::{IDENTITY_FILE, MEMORY_FILE, MemoryOwner, OVERLAY_FILE};
use super::pause::{PAUSED, SPENT, WRITTEN_MEMORY_FILE, give_room_back};
use super::record::{GENERATION, RECORD, Record};
use crate::egress;
use crate::host::Host;
use crate::jail;
use crate::snapshot::{Manifest, Stage};

/// How many directories are looked at at once: those whose monitors end take a while.
const AT_ONCE: usize = 32;

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

/// A sandbox that an earlier run left.
#[derive(Debug)]
pub struct Found {
    pub(super) directory: PathBuf,
    pub(super) record: Record,
    pub(super) state: Left,
}

/// What it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It is on disk.
    Paused,
    /// It was stopped, or its machine was restarted while it ran, and it has its disk.
    Stopped,
    /// It runs in this monitor.
    Running(ProcessIdentity),
    /// Its monitor is gone, and nothing of it is left.
    Lost,
}

/// Removes everything but sandboxes that are to be kept. To be called before the first sandbox is made.
pub async fn sweep(host: &Host) -> Result<Vec<Found>, SweepError> {
    let sandboxes = host.sandboxes_dir();
    let entries = fs::read_dir(&sandboxes).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let directories: Vec<PathBuf> = entries.map_err(|source| SweepError::Directory { path: sandboxes, source })?;
    let find = |identity| host.vmm.find(identity).ok();
    let looks = directories.into_iter().map(|directory| look(directory, &host.machine_boot, &find));
    let found: Vec<_> = stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await?;
    let found: Vec<_> = found.into_iter().flatten().collect();
    let runs = |found: &&Found| matches!(found.state, Left::Running(_));
    // Paused ones get another when they are resumed.
    let keep: HashSet<SandboxId> = found.iter().filter(runs).map(|found| found.record.spec.id.clone()).collect();
    host.network.sweep(&keep).await?;
    host.cgroups.sweep();
    Ok(found)
}

/// Says which sandbox a directory is of, ends a monitor that is no sandbox's, and removes what nobody needs.
async fn look(
    directory: PathBuf,
    machine_boot: &str,
    find: &(dyn Fn(ProcessIdentity) -> Option<VmmProcess> + Sync),
) -> Result<Option<Found>, SweepError> {
    let monitor = jail::recorded(&directory.join(IDENTITY_FILE)).and_then(find);
    let failed = |source| SweepError::Directory { path: directory.clone(), source };
    let (record, state) = match tell(&directory, machine_boot, monitor.as_ref().map(VmmProcess::identity)) {
        Ok(told) => told.unzip(),
        // Perhaps a newer version's: whatever it is, it is somebody's.
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "a sandbox cannot be read and is left alone");
            return Ok(None);
        }
    };
    if let (Some(monitor), false) = (&monitor, matches!(state, Some(Left::Running(_)))) {
        tracing::info!(directory = %directory.display(), "ending a virtual machine that an earlier run left");
        monitor.kill().await;
    }
    if let (Some(process), false) = (egress::recorded(&directory), matches!(state, Some(Left::Running(_)))) {
        tracing::info!(directory = %directory.display(), "ending a resolver and proxy that an earlier run left");
        process.kill().await;
    }
    match (&record, state) {
        (Some(record), Some(Left::Paused)) => {
            tidy(&directory, record, &[RECORD, GENERATION, PAUSED, MEMORY_FILE, OVERLAY_FILE]).map_err(failed)?;
            give_room_back(&directory);
        }
        (Some(record), Some(Left::Stopped)) => {
            tidy(&directory, record, &[RECORD, GENERATION, OVERLAY_FILE]).map_err(failed)?
        }
        (Some(record), Some(Left::Running(_))) => undo_cut_pause(&directory, record).map_err(failed)?,
        _ => fs::remove_dir_all(&directory).map_err(failed)?,
    }
    Ok(record.zip(state).map(|(record, state)| Found { directory, record, state }))
}

/// What a directory is, as the table above says; none where it goes. An error where it is a paused one that cannot be
/// read.
fn tell(directory: &Path, machine_boot: &str, monitor: Option<ProcessIdentity>) -> io::Result<Option<(Record, Left)>> {
    if !directory.join(RECORD).exists() {
        return Ok(None);
    }
    let paused = directory.join(PAUSED);
    if paused.is_dir() {
        Manifest::read(&paused).map_err(io::Error::other)?;
        return Ok(Some((Record::read(directory)?, Left::Paused)));
    }
    let Ok(record) = Record::read(directory) else { return Ok(None) };
    let Some(run) = &record.run else { return Ok(None) };
    let state = match monitor {
        _ if record.is_stopped || run.machine_boot != machine_boot => Left::Stopped,
        Some(monitor) => Left::Running(monitor),
        None => Left::Lost,
    };
    Ok(Some((record, state)))
}

/// Removes what a pause that was cut had written of a sandbox that goes on, and what a resume may have left.
fn undo_cut_pause(directory: &Path, record: &Record) -> io::Result<()> {
    Stage::undo(&directory.join(PAUSED)).map_err(io::Error::other)?;
    let is_shared = record.run.as_ref().is_some_and(|run| run.memory == MemoryOwner::Shared);
    let unused = [Some(MEMORY_FILE).filter(|_| is_shared), Some(WRITTEN_MEMORY_FILE)];
    for name in unused.into_iter().flatten() {
        remove_if_there(fs::remove_file(directory.join(name)))?;
    }
    remove_if_there(fs::remove_dir_all(directory.join(SPENT)))
}

fn remove_if_there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Leaves of a sandbox that is only on disk what it consists of: its `own` files and the layers of its disk. A pause that
/// was cut after its point of no return had not come to it.
fn tidy(directory: &Path, record: &Record, own: &[&str]) -> io::Result<()> {
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{record, run};
    use super::*;
    use crate::snapshot::manifest_tests::origin;

    const NOW: &str = "this boot";

    fn running(identity: ProcessIdentity) -> Option<VmmProcess> {
        VmmProcess::open(identity).ok()
    }

    /// What a directory is in which there is what its name says: `running` stands for a record of one that runs, `paused/`
    /// for all of a pause.
    fn left(sandboxes: &Path, entries: &[&str]) -> PathBuf {
        let directory = sandboxes.join("sb1");
        fs::create_dir(&directory).unwrap();
        for entry in entries {
            match entry.strip_suffix('/') {
                Some(name) => fs::create_dir(directory.join(name)).unwrap(),
                None => fs::write(directory.join(entry.split('@').next().unwrap()), "").unwrap(),
            }
            let of = |boot: &str, memory| record("sb1").running(Some(run(boot, memory)));
            let record = match *entry {
                "paused/" => {
                    Manifest::new(origin()).write(&directory.join(PAUSED)).unwrap();
                    continue;
                }
                "record.json" => record("sb1"),
                "record.json@shared" => of(NOW, MemoryOwner::Shared),
                "record.json@own" => of(NOW, MemoryOwner::Sandbox),
                "record.json@earlier" => of("an earlier boot", MemoryOwner::Sandbox),
                "record.json@stopped" => of(NOW, MemoryOwner::Shared).stopped(),
                _ => continue,
            };
            record.write(&directory).unwrap();
        }
        directory
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A process that is nobody's monitor, as one that runs.
    fn monitor(directory: &Path) -> ProcessIdentity {
        #[allow(clippy::zombie_processes, reason = "VmmProcess reaps it")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        fs::write(directory.join(IDENTITY_FILE), serde_json::to_vec(&identity).unwrap()).unwrap();
        identity
    }

    /// With a monitor that runs: what becomes of the directory, what is left in it, and whether the monitor runs on.
    async fn check(entries: &[&str], expect: Option<Left>, expect_left: &[&str]) {
        for has_monitor in [true, false] {
            let sandboxes = tempfile::tempdir().unwrap();
            let directory = left(sandboxes.path(), entries);
            let process = has_monitor.then(|| monitor(&directory));
            let found = look(directory.clone(), NOW, &running).await.unwrap();
            let context = format!("{entries:?}, monitor: {has_monitor}");
            let expected = match (expect, process) {
                (Some(Left::Running(_)), Some(process)) => Some(Left::Running(process)),
                (Some(Left::Running(_)), None) => Some(Left::Lost),
                (other, _) => other,
            };
            assert_eq!(found.as_ref().map(|found| found.state), expected, "{context}");
            let mut left: Vec<_> = if expected == Some(Left::Lost) { Vec::new() } else { expect_left.to_vec() };
            if matches!(expected, Some(Left::Running(_))) {
                left.push(IDENTITY_FILE);
                left.sort_unstable();
            }
            assert_eq!(names(&directory), left, "{context}");
            assert_eq!(directory.exists(), !left.is_empty(), "{context}");
            let Some(process) = process else { continue };
            let runs_on = ProcessIdentity::of(process.pid).is_ok();
            assert_eq!(runs_on, matches!(expected, Some(Left::Running(_))), "{context}");
            if runs_on {
                VmmProcess::open(process).unwrap().kill().await;
            }
        }
    }

    #[tokio::test]
    async fn wherever_the_last_run_was_cut_a_sandbox_is_what_it_was_before_or_what_it_was_to_become() {
        let running = Some(Left::Running(ProcessIdentity { pid: 0, start_ticks: 0 }));
        let paused = ["layer0.qcow2", "memory", "overlay.qcow2", "paused", "record.json"];
        let common = ["overlay.qcow2", "layer0.qcow2"];
        let with = |record: &'static str, more: &[&'static str]| [&[record], &common[..], more].concat();
        // Never finished.
        check(&["record.json"], None, &[]).await;
        check(&with("record.json", &["frozen-memory"]), None, &[]).await;
        check(&with("record.json", &["unsettled", "frozen-memory"]), None, &[]).await;
        // Running.
        let shared = ["frozen-memory", "layer0.qcow2", "overlay.qcow2", "record.json"];
        check(&with("record.json@shared", &["frozen-memory"]), running, &shared).await;
        let own = ["layer0.qcow2", "memory", "overlay.qcow2", "record.json"];
        check(&with("record.json@own", &["memory"]), running, &own).await;
        // Within a pause, before its point of no return and after it.
        let cut = ["frozen-memory", "paused.staged/", "memory.written"];
        check(&with("record.json@shared", &cut), running, &shared).await;
        let cut = ["frozen-memory", "paused.staged/", "memory"];
        check(&with("record.json@shared", &cut), running, &shared).await;
        check(&with("record.json@own", &["memory", "paused.staged/"]), running, &own).await;
        check(&with("record.json@shared", &["frozen-memory", "paused/", "memory"]), Some(Left::Paused), &paused).await;
        // Paused; within a resume, before its point of no return and after it; with what an earlier one left.
        check(&with("record.json", &["memory", "paused/"]), Some(Left::Paused), &paused).await;
        check(&with("record.json@own", &["memory", "paused/", "unsettled"]), Some(Left::Paused), &paused).await;
        check(&with("record.json@own", &["memory", "spent/"]), running, &own).await;
        check(&with("record.json@own", &["memory", "spent/", "paused/"]), Some(Left::Paused), &paused).await;
        // Within a deletion.
        check(&["overlay.qcow2", "layer0.qcow2", "memory", "paused/"], None, &[]).await;
        check(&["overlay.qcow2", "layer0.qcow2", "memory"], None, &[]).await;
        // The machine was started again.
        let stopped = ["layer0.qcow2", "overlay.qcow2", "record.json"];
        check(&with("record.json@earlier", &["memory"]), Some(Left::Stopped), &stopped).await;
        let more = ["frozen-memory", "spent/", "paused.staged/", "unsettled"];
        check(&with("record.json@earlier", &more), Some(Left::Stopped), &stopped).await;
        check(&with("record.json@earlier", &["memory", "paused/"]), Some(Left::Paused), &paused).await;
        // Within a stop of one that ran, and of a paused one before its point of no return and after it.
        check(&with("record.json@stopped", &["frozen-memory", "unsettled"]), Some(Left::Stopped), &stopped).await;
        check(&with("record.json@stopped", &["memory", "paused/"]), Some(Left::Paused), &paused).await;
        check(&with("record.json@stopped", &["memory", "spent/"]), Some(Left::Stopped), &stopped).await;
    }

    #[tokio::test]
    async fn what_was_under_way_is_still_known_when_the_sandbox_is_adopted() {
        let sandboxes = tempfile::tempdir().unwrap();
        let directory = left(sandboxes.path(), &["record.json@shared", "unsettled"]);
        let process = VmmProcess::open(monitor(&directory)).unwrap();
        look(directory.clone(), NOW, &running).await.unwrap().unwrap();
        assert!(directory.join("unsettled").exists());
        process.kill().await;
    }

    #[tokio::test]
    async fn a_paused_sandbox_that_cannot_be_read_is_left_alone() {
        let sandboxes = tempfile::tempdir().unwrap();
        let directory = left(sandboxes.path(), &["record.json", "overlay.qcow2", "memory", "paused/", "other"]);
        fs::write(directory.join("paused/manifest.json"), "{\"format\": 99}").unwrap();
        let before = names(&directory);
        assert!(look(directory.clone(), NOW, &running).await.unwrap().is_none());
        assert_eq!(names(&directory), before);
    }
}
