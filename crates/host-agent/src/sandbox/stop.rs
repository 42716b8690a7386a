//! Stopping: only a sandbox's disk is kept, as of a machine that was switched off after its disk was written.
//! [`super::start`] is the way back.
//!
//! ```text
//! running  freeze guest ─ it writes what is dirty ─ stop ─ disk made durable ─ [the record says so] ─ end the monitor
//! paused   the record says so ─ [paused/ goes]
//! ```
//!
//! Before the bracket a stop that fails leaves the sandbox running, or paused, as it was. What the record says of a
//! directory with `paused/` in it means nothing.

use std::fs::{self, File};

use tokio::time::Instant;
use vmm::Vm;

use super::parts::{MEMORY_FILE, MemoryOwner, OVERLAY_FILE, Parts, file_error};
use super::pause::{PAUSED, SPENT, spend};
use super::record::{settle, unsettle};
use super::restore::FROZEN_MEMORY_FILE;
use super::{CreateError, SandboxSpec};
use crate::blocking;
use crate::guest::Guest;
use crate::host::Host;
use crate::machine::Failpoint;

impl Parts {
    /// Ends what runs and keeps its disk. After an error it runs as before, unless its monitor is gone.
    pub(super) async fn halt(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let begun = Instant::now();
        let vm = self.vm.clone().expect("a running sandbox has a virtual machine");
        let guest = self.guest.clone().expect("a running sandbox has a guest");
        unsettle(self.directory()).map_err(file_error("mark", self.directory()))?;
        if let Err(error) = self.keep_disk(host, &*vm, &guest).await {
            if let Err(error) = self.go_on(host, spec, &*vm, &guest).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(sandbox = %spec.id, error, "a stop was not undone");
            }
            return Err(error);
        }
        host.surroundings.reached(Failpoint::StopPublished);
        let durable = begun.elapsed();
        vm.kill().await;
        (self.vm, self.guest, self.memory, self.share) = (None, None, MemoryOwner::Sandbox, None);
        for name in [FROZEN_MEMORY_FILE, MEMORY_FILE] {
            // What is left costs disk space and nothing else.
            let _ = fs::remove_file(self.directory().join(name));
        }
        settle(self.directory());
        tracing::debug!(sandbox = %spec.id, ?durable, ended = ?begun.elapsed(), "stopped");
        Ok(())
    }

    /// Makes the disk of a sandbox that runs whole and durable. When this succeeds the sandbox is a stopped one.
    async fn keep_disk(&mut self, host: &Host, vm: &dyn Vm, guest: &Guest) -> Result<(), CreateError> {
        let written = async {
            guest.freeze().await?;
            guest.write_back().await
        };
        tokio::select! {
            written = written => written.map_err(CreateError::Freeze)?,
            () = vm.process().ended() => return Err(CreateError::Ended { last_words: vm.last_words() }),
        }
        vm.pause().await.map_err(CreateError::Capture)?;
        let overlay = self.directory().join(OVERLAY_FILE);
        let path = overlay.clone();
        let synced = blocking::run(move || File::open(path)?.sync_data()).await;
        synced.unwrap_or_else(|error| Err(error.into())).map_err(file_error("sync", &overlay))?;
        self.may_write(host, Failpoint::StopUnpublished)?;
        self.note_stopped().await
    }

    /// Gives up the memory of a paused sandbox. After an error it is paused as before.
    pub(super) async fn forget_memory(&mut self, host: &Host) -> Result<(), CreateError> {
        self.may_write(host, Failpoint::StopUnpublished)?;
        self.note_stopped().await?;
        let paused = self.directory().join(PAUSED);
        spend(self.directory(), &paused).map_err(file_error("spend", &paused))?;
        host.surroundings.reached(Failpoint::StopPublished);
        let _ = fs::remove_dir_all(self.directory().join(SPENT));
        let _ = fs::remove_file(self.directory().join(MEMORY_FILE));
        Ok(())
    }

    async fn note_stopped(&mut self) -> Result<(), CreateError> {
        let noted = self.write(self.record().clone().stopped()).await;
        if noted.is_err() {
            // It may be in its place all the same: then the one before is put back.
            let _ = self.write(self.record().clone()).await;
        }
        self.record = Some(noted?);
        Ok(())
    }
}
