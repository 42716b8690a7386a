//! Capturing a sandbox as a snapshot, while it goes on as it was.
//!
//! ```text
//! running   merge layers, if too many ─ copy what is frozen ─ freeze guest ─ stop ─ state, memory, disk ─ go on
//! paused                                                                     copy all three
//! of the disk alone                       freeze guest ─ it writes what is dirty ─ stop ─ disk ─ go on
//! both      then, while nobody waits for it: digests, all made durable ─ [snapshots/<id>/ appears]
//! ```
//!
//! Before the bracket a failure removes what was written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use model::{Extent, SnapshotId};
use vmm::{Vm, VmmProcess};

use super::admission;
use super::bake::save_state;
use super::parts::{MEMORY_FILE, MemoryOwner, OVERLAY_FILE, Parts, file_error};
use super::pause::PAUSED;
use super::record::unsettle;
use super::restore::FROZEN_MEMORY_FILE;
use super::{CreateError, SandboxSpec};
use crate::blocking;
use crate::guest::Guest;
use crate::host::Host;
use crate::machine::{Failpoint, Surroundings};
use crate::snapshot::{
    EMPTY_OVERLAY, Frozen, MEMORY, Manifest, OVERLAY, Origin, Reservation, STATE, SnapshotError, Stage, link, seal,
};

/// The most frozen overlays that a sandbox has between its template's image and its own overlay. A sandbox with so many
/// is not captured before they are merged into its overlay, because what comes from the capture has one more.
const MAX_LAYERS: usize = 4;

/// The files of a snapshot that are its own; the rest are layers. Of a snapshot of a disk alone the last ones.
const OWN_FILES: [&str; 4] = [STATE, MEMORY, OVERLAY, EMPTY_OVERLAY];
const DISK_FILES: usize = 2;

fn own_files(extent: Extent) -> &'static [&'static str] {
    match extent {
        Extent::Full => &OWN_FILES,
        Extent::Disk => &OWN_FILES[OWN_FILES.len() - DISK_FILES..],
    }
}

/// What was captured, on its way to become a snapshot. Removed when this is dropped before it was published.
pub(super) struct Capture {
    stage: Stage,
    manifest: Manifest,
    extent: Extent,
    surroundings: Arc<dyn Surroundings>,
    /// Given back last.
    reservation: Reservation,
}

impl Capture {
    /// Makes it durable and lets it be found. Reads all of it.
    pub fn publish(self) -> Result<(SnapshotId, Frozen), SnapshotError> {
        let Self { reservation, stage, mut manifest, extent, surroundings } = self;
        for name in own_files(extent) {
            let path = stage.path().join(name);
            seal(&path).map_err(SnapshotError::at("freeze", &path))?;
        }
        manifest.digest(stage.path(), own_files(extent))?;
        manifest.write(stage.path())?;
        let may_publish = surroundings.may_write(Failpoint::SnapshotUnpublished);
        may_publish.map_err(SnapshotError::at("write in", stage.path()))?;
        stage.publish()?;
        surroundings.reached(Failpoint::SnapshotPublished);
        Ok((reservation.id.clone(), reservation.get()?))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stage.path().join(name)
    }
}

impl Parts {
    /// Merges the layers of a sandbox that runs, where a capture of it would have too many.
    pub(super) async fn stay_shallow(&mut self, host: &Host) -> Result<(), CreateError> {
        let layers = self.record().layers.clone();
        if layers.len() < MAX_LAYERS {
            return Ok(());
        }
        let begun = Instant::now();
        let files: Vec<_> = layers.iter().map(|layer| self.directory().join(&layer.name)).collect();
        let bytes: u64 = files.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.blocks() * 512).sum();
        admission::check_disk(host, bytes >> 20)?;
        let vm = self.vm.clone().expect("a running sandbox has a virtual machine");
        vm.merge_layers().await.map_err(CreateError::Merge)?;
        // In this order: an overlay may lie over layers that it does not need any more, and not the other way round.
        self.record_layers(Vec::new())?;
        for path in &files {
            // What is left costs disk space and nothing else.
            let _ = fs::remove_file(path);
        }
        tracing::debug!(sandbox = %self.record().spec.id, bytes, took = ?begun.elapsed(), "layers were merged");
        Ok(())
    }

    /// Captures a sandbox that runs. Whatever happens it goes on, unless its monitor is gone.
    pub(super) async fn capture_running(
        &self,
        host: &Host,
        spec: &SandboxSpec,
        reservation: Reservation,
        extent: Extent,
    ) -> Result<Capture, CreateError> {
        let vm = self.vm.clone().expect("a running sandbox has a virtual machine");
        let guest = self.guest.clone().expect("a running sandbox has a guest");
        let source = (extent == Extent::Full).then(|| Source::of(self, vm.process()));
        let capture = self.begin_capture(host, self.origin(), source.as_ref(), reservation).await?;
        let begun = Instant::now();
        unsettle(self.directory()).map_err(file_error("mark", self.directory()))?;
        let written = self.write_stopped(&capture, source, &*vm, &guest).await;
        let stopped = begun.elapsed();
        let went_on = self.go_on(host, spec, &*vm, &guest).await;
        tracing::debug!(sandbox = %spec.id, ?stopped, went_on = ?begun.elapsed(), "captured");
        written.and(went_on).map(|()| capture)
    }

    /// Captures a sandbox that is paused.
    pub(super) async fn capture_paused(
        &mut self,
        host: &Host,
        reservation: Reservation,
        extent: Extent,
    ) -> Result<Capture, CreateError> {
        self.find_template(host)?;
        let paused = self.directory().join(PAUSED);
        let manifest = Manifest::read(&paused)?;
        let source = (extent == Extent::Full).then(|| Source::Own(self.directory().join(MEMORY_FILE)));
        let capture = self.begin_capture(host, manifest.origin, source.as_ref(), reservation).await?;
        if extent == Extent::Full {
            let state = capture.file(STATE);
            link(&paused.join(STATE), &state).map_err(file_error("link", &state))?;
        }
        self.write_memory_and_disk(&capture, source).await?;
        Ok(capture)
    }

    /// What can be done before the guest has to stand still.
    async fn begin_capture(
        &self,
        host: &Host,
        origin: Origin,
        source: Option<&Source>,
        reservation: Reservation,
    ) -> Result<Capture, CreateError> {
        let directory = self.directory();
        let overlay = directory.join(OVERLAY_FILE);
        let disk = fs::metadata(&overlay).map_err(file_error("measure", &overlay))?.blocks() * 512;
        let memory = source.map_or(Ok(0), Source::bytes).map_err(file_error("measure the memory in", directory))?;
        admission::check_disk(host, (disk + memory) >> 20)?;
        let record = self.record();
        let mut manifest = Manifest::new(origin);
        manifest.sandbox = Some(record.spec.id.clone());
        manifest.layers = record.layers.iter().map(|layer| layer.name.clone()).collect();
        manifest.files = record.layers.iter().map(|layer| (layer.name.clone(), layer.digest.clone())).collect();
        let extent = if source.is_some() { Extent::Full } else { Extent::Disk };
        let (stage, surroundings) = (reservation.stage()?, host.surroundings.clone());
        let capture = Capture { stage, manifest, extent, surroundings, reservation };
        for layer in &record.layers {
            let to = capture.file(&layer.name);
            link(&directory.join(&layer.name), &to).map_err(file_error("link", &to))?;
        }
        host.vmm.make_overlay(&capture.file(EMPTY_OVERLAY), self.disk()).await?;
        if let Some(source) = source.cloned() {
            let to = capture.file(MEMORY);
            write(&capture, move || source.copy_frozen(&to)).await?;
        }
        Ok(capture)
    }

    /// Stops guest and virtual machine and writes what has to be of one moment.
    async fn write_stopped(
        &self,
        capture: &Capture,
        source: Option<Source>,
        vm: &dyn Vm,
        guest: &Guest,
    ) -> Result<(), CreateError> {
        let frozen = async {
            guest.freeze().await?;
            // What is dirty is in the memory, where that is captured.
            if source.is_none() { guest.write_back().await } else { Ok(()) }
        };
        tokio::select! {
            frozen = frozen => frozen.map_err(CreateError::Freeze)?,
            // From here on the monitor itself is asked, and says nothing then.
            () = vm.process().ended() => return Err(CreateError::Ended { last_words: vm.last_words() }),
        }
        vm.pause().await.map_err(CreateError::Capture)?;
        if source.is_some() {
            save_state(vm, &capture.file(STATE)).await?;
        }
        self.write_memory_and_disk(capture, source).await
    }

    async fn write_memory_and_disk(&self, capture: &Capture, source: Option<Source>) -> Result<(), CreateError> {
        let (memory, overlay) = (capture.file(MEMORY), capture.file(OVERLAY));
        let own = self.directory().join(OVERLAY_FILE);
        write(capture, move || {
            source.map_or(Ok(()), |source| source.copy_rest(&memory))?;
            vmm::memory::copy(&File::open(own)?, &create(&overlay)?)
        })
        .await
    }
}

/// Where the memory is that is to be captured.
#[derive(Debug, Clone)]
enum Source {
    /// All of it in this file, which is the sandbox's own.
    Own(PathBuf),
    /// In this frozen file, and over it what the monitor has changed.
    Frozen(PathBuf, VmmProcess),
}

impl Source {
    fn of(parts: &Parts, monitor: &VmmProcess) -> Self {
        match parts.memory {
            MemoryOwner::Sandbox => Self::Own(parts.directory().join(MEMORY_FILE)),
            MemoryOwner::Shared => Self::Frozen(parts.directory().join(FROZEN_MEMORY_FILE), monitor.clone()),
        }
    }

    /// What a copy takes on the disk, about.
    fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::Own(file) => vmm::memory::data_bytes(&File::open(file)?),
            Self::Frozen(file, monitor) => Ok(vmm::memory::data_bytes(&File::open(file)?)? + monitor.private_bytes()?),
        }
    }

    /// Copies what does not change any more.
    fn copy_frozen(&self, to: &Path) -> io::Result<()> {
        let to = create(to)?;
        match self {
            Self::Own(_) => Ok(()),
            Self::Frozen(file, _) => vmm::memory::copy(&File::open(file)?, &to),
        }
    }

    /// Copies the rest, once the virtual machine is stopped.
    fn copy_rest(&self, to: &Path) -> io::Result<()> {
        let to = File::options().read(true).write(true).open(to)?;
        match self {
            Self::Own(file) => vmm::memory::copy(&File::open(file)?, &to),
            Self::Frozen(file, monitor) => monitor.write_changes(&File::open(file)?, &to),
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Runs what reads and writes much.
async fn write(capture: &Capture, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), CreateError> {
    let done = blocking::run(work).await.unwrap_or_else(|error| Err(error.into()));
    done.map_err(file_error("write the capture in", capture.stage.path()))
}
