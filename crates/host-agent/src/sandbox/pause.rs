//! Pause to disk and resume: a paused sandbox is files and a network slot, no process and no memory.
//!
//! ```text
//! pause    freeze guest ─ stop ─ state, memory, disk made durable ─ [paused/ appears] ─ end the monitor
//! resume   check ─ start the monitor, load ─ [paused/ goes] ─ let go ─ make the guest right, thaw
//! ```
//!
//! The brackets are the points of no return, each one rename made durable. Before it a failed pause leaves the sandbox
//! running, a failed resume leaves it paused and untouched. After `paused/` has gone that state is never loaded again:
//! from then on memory and disk move on, and what is noted of the monitor tells the next host agent where they are.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm::{Memory, RestoreSpec, Vm, VmmProcess};

use super::admission;
use super::bake::save_state;
use super::parts::{MEMORY_FILE, MemoryOwner, OVERLAY_FILE, Parts, file_error, identity};
use super::record::{settle, unsettle};
use super::restore::FROZEN_MEMORY_FILE;
use super::turns::Turn;
use super::{CreateError, SandboxSpec, Start};
use crate::blocking;
use crate::guest::Guest;
use crate::host::Host;
use crate::machine::Failpoint;
use crate::snapshot::{Manifest, Origin, STATE, SnapshotError, Stage};

/// The directory in a sandbox's own that makes it a paused one.
pub(super) const PAUSED: &str = "paused";

/// What it is called once it must not be loaded any more, until it is removed.
pub(super) const SPENT: &str = "spent";

/// What a memory file is called while a pause writes it.
pub(super) const WRITTEN_MEMORY_FILE: &str = "memory.written";

/// What makes a sandbox's directory that of a paused one.
pub(crate) fn paused_dir(directory: &Path) -> PathBuf {
    directory.join(PAUSED)
}

/// A resumed guest answers at once; this is for a busy host.
const RESUME_DEADLINE: Duration = Duration::from_secs(30);

/// How far a resume came that failed.
#[derive(Debug)]
pub(super) enum ResumeFailure {
    /// Nothing has changed.
    Paused(CreateError),
    /// The virtual machine is there, perhaps runs, and its guest does not answer.
    Unanswered(CreateError),
}

impl Parts {
    /// Puts the sandbox on disk and ends its monitor. After an error it runs as before, unless its monitor is gone.
    pub(super) async fn pause(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let begun = Instant::now();
        let _promised = admission::promise_disk(host, self.copied_by_pause_mb())?;
        let vm = self.vm.clone().expect("a running sandbox has a virtual machine");
        let guest = self.guest.clone().expect("a running sandbox has a guest");
        unsettle(self.directory()).map_err(file_error("mark", self.directory()))?;
        let captured = async {
            tokio::select! {
                frozen = guest.freeze() => frozen.map_err(CreateError::Freeze)?,
                // From here on the monitor itself is asked, and says nothing then.
                () = vm.process().ended() => return Err(CreateError::Ended { last_words: vm.last_words() }),
            }
            let frozen = begun.elapsed();
            self.capture(host, &*vm).await?;
            Ok(frozen)
        };
        let frozen = match captured.await {
            Ok(frozen) => frozen,
            Err(error) => {
                if let Err(error) = self.go_on(host, spec, &*vm, &guest).await {
                    tracing::warn!(sandbox = %spec.id, error = &error as &dyn std::error::Error, "a pause was not undone");
                }
                return Err(error);
            }
        };
        let durable = begun.elapsed();
        self.end_monitor(&*vm).await;
        tracing::debug!(sandbox = %spec.id, ?frozen, ?durable, ended = ?begun.elapsed(), "paused");
        Ok(())
    }

    /// What a pause at least writes: all that a memory has that is not the sandbox's own yet.
    fn copied_by_pause_mb(&self) -> u64 {
        let frozen = fs::metadata(self.directory().join(FROZEN_MEMORY_FILE));
        match (self.memory, frozen) {
            (MemoryOwner::Shared, Ok(metadata)) => (metadata.blocks() * 512) >> 20,
            _ => 0,
        }
    }

    /// Captures again a virtual machine that was resumed and whose guest does not answer: it is paused as it is now.
    pub(super) async fn pause_again(&mut self, host: &Host) -> Result<(), CreateError> {
        let vm = self.vm.clone().expect("a virtual machine that was resumed is there");
        self.capture(host, &*vm).await?;
        self.end_monitor(&*vm).await;
        Ok(())
    }

    /// Stops the virtual machine and writes all of it. When this succeeds `paused/` is there; else nothing is.
    async fn capture(&mut self, host: &Host, vm: &dyn Vm) -> Result<(), CreateError> {
        vm.pause().await.map_err(CreateError::Capture)?;
        let directory = self.directory().to_owned();
        let stage = Stage::new(&directory.join(PAUSED))?;
        self.may_write(host, Failpoint::StateUnsaved)?;
        save_state(vm, &stage.path().join(STATE)).await?;
        let origin = self.origin();
        let process = vm.process().clone();
        let owner = self.memory;
        let surroundings = host.surroundings.clone();
        let write = blocking::run(move || {
            let may_write = |at| surroundings.may_write(at).map_err(file_error("write in", &directory));
            may_write(Failpoint::MemoryUnwritten)?;
            let memory =
                durable_memory(&directory, &process, owner).map_err(file_error("write the memory in", &directory))?;
            may_write(Failpoint::MemoryWritten)?;
            let overlay = directory.join(OVERLAY_FILE);
            File::open(&overlay).and_then(|file| file.sync_data()).map_err(file_error("sync", &overlay))?;
            write_manifest(stage.path(), origin)?;
            // The sandbox's own directory has that name perhaps only since now.
            let sandboxes = directory.parent().unwrap_or(&directory);
            File::open(sandboxes).and_then(|file| file.sync_all()).map_err(file_error("sync", sandboxes))?;
            memory.keep().map_err(file_error("keep the memory in", &directory))?;
            may_write(Failpoint::PauseUnpublished)?;
            stage.publish()?;
            surroundings.reached(Failpoint::PausePublished);
            Ok(())
        });
        write.await.map_err(|error| file_error("capture", Path::new("memory"))(error.into()))?
    }

    async fn end_monitor(&mut self, vm: &dyn Vm) {
        vm.kill().await;
        (self.vm, self.guest, self.memory) = (None, None, MemoryOwner::Sandbox);
        self.share = None;
        let directory = self.directory();
        // What is left here costs disk space and nothing else.
        let _ = fs::remove_file(directory.join(FROZEN_MEMORY_FILE));
        settle(directory);
        give_room_back(directory);
    }

    /// Lets a virtual machine go on that was stopped, or was to be. Each step is harmless where there is nothing to do.
    pub(super) async fn go_on(
        &self,
        host: &Host,
        spec: &SandboxSpec,
        vm: &dyn Vm,
        guest: &Guest,
    ) -> Result<(), CreateError> {
        // Fails where the monitor is gone, which its owner notices.
        vm.resume().await.map_err(CreateError::Go)?;
        let restored = guest.restore(identity(host, spec, self.template()), RESUME_DEADLINE).await;
        restored.map_err(CreateError::Introduce)?;
        settle(self.directory());
        Ok(())
    }

    /// Lets the sandbox go on. The guest has a new access token.
    pub(super) async fn resume(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), ResumeFailure> {
        let begun = Instant::now();
        let _working = host.pool.begin_work();
        let (vm, guest, _turn) = match self.load(host, spec).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(ResumeFailure::Paused(error)),
        };
        let loaded = begun.elapsed();
        vm.resume().await.map_err(|error| ResumeFailure::Unanswered(CreateError::Go(error)))?;
        let answered = tokio::select! {
            restored = guest.restore(identity(host, spec, self.template()), RESUME_DEADLINE) => {
                restored.map_err(CreateError::Introduce)
            }
            () = vm.process().ended() => Err(CreateError::Ended { last_words: vm.last_words() }),
        };
        answered.map_err(ResumeFailure::Unanswered)?;
        tracing::debug!(sandbox = %spec.id, ?loaded, answered = ?begun.elapsed(), "resumed");
        self.guest = Some(guest);
        settle(self.directory());
        let _ = fs::remove_dir_all(self.directory().join(SPENT));
        Ok(())
    }

    /// Starts a monitor with all that was captured, and passes the point of no return. Waits for a turn once there is room
    /// and nothing is refused any more.
    async fn load(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(Arc<dyn Vm>, Guest, Turn), CreateError> {
        self.find_template(host)?;
        let paused = self.directory().join(PAUSED);
        let memory = self.directory().join(MEMORY_FILE);
        let wanted = Origin::new(self.template(), spec.shape, host.vmm.platform());
        let manifest = Manifest::open(&paused, &memory, &wanted)?;
        let share = admission::readmit(host, spec).await?;
        let promised = admission::promise_disk(host, spec.shape.memory.get().into())?;
        let reserved = File::options().read(true).write(true).open(&memory);
        reserved.and_then(|file| vmm::memory::reserve(&file)).map_err(file_error("reserve disk space for", &memory))?;
        drop(promised);
        self.make_network(host, spec).await?;
        let state = paused.join(STATE);
        let state = File::open(&state).map_err(file_error("open", &state))?.into();
        let machine = self.machine(host, spec, Memory::Own(memory))?;
        let platform = manifest.origin.platform;
        self.platform = Some(platform.clone());
        let jail = self.jail(host);
        let turn = host.turns.take().await;
        let vm = host.vmm.restore(RestoreSpec { machine, state, platform }, &jail).await?;
        self.confinement.jail = vm.launch_delay();
        (self.vm, self.start) = (Some(vm.clone()), Start::Resume);
        let guest = self.guest_client();
        let passed = async {
            self.network_ready(host, spec).await?;
            self.pass_over(host, &guest, &paused).await
        };
        if let Err(error) = passed.await {
            vm.kill().await;
            self.vm = None;
            return Err(error);
        }
        host.surroundings.reached(Failpoint::ResumeSpent);
        self.share = Some(share);
        Ok((vm, guest, turn))
    }

    /// The point of no return of a resume: from then on the sandbox is what its monitor has in memory, and the next host
    /// agent would go on with that.
    async fn pass_over(&mut self, host: &Host, guest: &Guest, paused: &Path) -> Result<(), CreateError> {
        unsettle(self.directory()).map_err(file_error("mark", self.directory()))?;
        self.note_running(host, guest).await?;
        self.may_write(host, Failpoint::ResumeUnspent)?;
        spend(self.directory(), paused).map_err(file_error("spend", paused))
    }
}

fn write_manifest(paused: &Path, origin: Origin) -> Result<(), SnapshotError> {
    let mut manifest = Manifest::new(origin);
    manifest.digest(paused, &[STATE])?;
    manifest.write(paused)
}

/// Gives back the disk space that was reserved for a guest's memory and never needed.
pub(super) fn give_room_back(directory: &Path) {
    let memory = File::options().read(true).write(true).open(directory.join(MEMORY_FILE));
    if let Err(error) = memory.and_then(|file| vmm::memory::release(&file)) {
        tracing::warn!(%error, "a paused sandbox takes more disk space than it needs");
    }
}

/// The point of no return of what uses up a pause. After an error `paused/` is as it was.
pub(super) fn spend(directory: &Path, paused: &Path) -> io::Result<()> {
    let spent = directory.join(SPENT);
    let _ = fs::remove_dir_all(&spent);
    fs::rename(paused, &spent)?;
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error) => fs::rename(&spent, paused).and(Err(error)),
        Ok(()) => Ok(()),
    }
}

/// A memory file that is durable, under the name that it has so far. Removed unless it is kept.
struct WrittenMemory {
    /// Its name so far, where that is not the one by which it is found.
    written: Option<PathBuf>,
    home: PathBuf,
}

impl WrittenMemory {
    fn keep(mut self) -> io::Result<()> {
        if let Some(written) = &self.written {
            fs::rename(written, &self.home)?;
        }
        self.written = None;
        Ok(())
    }
}

impl Drop for WrittenMemory {
    fn drop(&mut self) {
        if let Some(written) = &self.written {
            let _ = fs::remove_file(written);
        }
    }
}

/// The memory of a stopped virtual machine, durable: its own file, or one that is written now from what it shares with
/// others and what is its alone.
fn durable_memory(directory: &Path, process: &VmmProcess, owner: MemoryOwner) -> io::Result<WrittenMemory> {
    let home = directory.join(MEMORY_FILE);
    if owner == MemoryOwner::Sandbox {
        File::open(&home)?.sync_data()?;
        return Ok(WrittenMemory { written: None, home });
    }
    let written = directory.join(WRITTEN_MEMORY_FILE);
    let frozen = File::open(directory.join(FROZEN_MEMORY_FILE))?;
    let file = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&written)?;
    let memory = WrittenMemory { written: Some(written), home };
    vmm::memory::copy(&frozen, &file)?;
    process.write_changes(&frozen, &file)?;
    file.sync_all()?;
    Ok(memory)
}
