//! Starting a sandbox from its disk alone: what is left of one that ran when its machine went down.

use std::fs;

use tokio_util::sync::CancellationToken;

use super::parts::{MEMORY_FILE, Parts, Room};
use super::{CreateError, SandboxSpec, admission};
use crate::host::Host;

impl Parts {
    /// Boots the sandbox from its disk. After an error it is on disk as before; what could not be removed is removed when
    /// it is started again, or deleted. Whatever cuts this short, it is stopped until it is noted as running.
    pub(super) async fn start(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let _working = host.pool.begin_work();
        let started = self.try_start(host, spec).await;
        if started.is_err() {
            self.undo_start().await;
        }
        started
    }

    async fn try_start(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        self.find_template(host)?;
        self.share = Some(admission::readmit(host, spec).await?);
        self.make_network(host, spec).await?;
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
        let _ = fs::remove_file(self.directory().join(MEMORY_FILE));
        self.share = None;
    }
}
