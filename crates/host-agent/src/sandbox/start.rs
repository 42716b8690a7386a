//! Starting a sandbox from its disk alone: what is left of one that was stopped, or that ran when its machine went down,
//! or what somebody wants of one that is paused.

use std::fs;

use tokio_util::sync::CancellationToken;

use super::parts::{MEMORY_FILE, Parts, Room};
use super::pause::paused_dir;
use super::{CreateError, SandboxSpec, admission};
use crate::host::Host;

impl Parts {
    /// Boots the sandbox from its disk, and gives up its memory where that was kept, once there is room for it and a
    /// network. After an error it is on disk as before, or as after that; what could not be removed is removed when
    /// it is started again, or deleted. Whatever cuts this short, it is stopped until it is noted as running.
    pub(super) async fn start(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let _working = host.pool.begin_work();
        let started = self.try_start(host, spec).await;
        if started.is_err() {
            self.undo_start().await;
        }
        started
    }

    /// Whether a sandbox that does not run is a paused one.
    pub(super) fn keeps_memory(&self) -> bool {
        paused_dir(self.directory()).is_dir()
    }

    async fn try_start(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        self.find_template(host)?;
        self.share = Some(admission::readmit(host, spec).await?);
        self.make_network(host, spec).await?;
        if self.keeps_memory() {
            self.forget_memory(host).await?;
        }
        let template = self.template().clone();
        self.boot_from_disk(host, spec, &template, Room::Reserved, &CancellationToken::new()).await?;
        self.note_made(host).await
    }

    async fn undo_start(&mut self) {
        self.guest = None;
        if let Some(vm) = self.vm.take() {
            vm.kill().await;
        }
        if let Err(error) = self.remove_network().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "something is left of a sandbox that did not start"
            );
        }
        if !self.keeps_memory() {
            let _ = fs::remove_file(self.directory().join(MEMORY_FILE));
        }
        self.share = None;
    }
}
