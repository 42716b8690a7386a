//! Runs sandboxes on one host.
//!
//! One owner task per sandbox ([`sandbox`]) drives the parts that know nothing of each other: [`template`] (what it
//! boots from), [`net`] (its namespace and addresses), [`jail`] (how its monitor is confined) and the `vmm` crate (the
//! virtual machine). [`service`] is the edge that the control plane calls; [`guest`] speaks to the agent inside.

mod blocking;
pub mod cgroup;
pub mod disk;
pub mod egress;
mod files;
pub mod guest;
mod host;
pub mod jail;
mod machine;
pub mod net;
pub mod sandbox;
pub mod service;
pub mod snapshot;
pub mod template;

use std::sync::Arc;

use model::InstanceId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use host::{Host, HostConfig, HostError};
pub use machine::{Failpoint, Machine, Surroundings, ThisMachine};
use sandbox::{DestroyError, OnClose, Sandboxes, SweepError};

/// One host's sandboxes and what they share.
pub struct HostAgent {
    /// What all sandboxes share.
    pub host: Arc<Host>,
    /// The sandboxes.
    pub sandboxes: Sandboxes,
    /// What goes on in the background.
    background: TaskTracker,
    /// Ends it.
    stop: CancellationToken,
}

/// How a host agent ended.
#[derive(Debug)]
pub struct Closed {
    /// Sandboxes that run on.
    pub running: usize,
    /// What could not be removed.
    pub left: Vec<(model::SandboxId, DestroyError)>,
}

/// Why a host agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The host is not fit.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Something of an earlier run is in the way.
    #[error("clean up after an earlier run")]
    Sweep(#[from] SweepError),
}

impl HostAgent {
    /// Opens the host, takes over the sandboxes of an earlier run and removes what else it left.
    pub async fn start(config: HostConfig) -> Result<Self, StartError> {
        Self::begin(Host::open(config).await?).await
    }

    /// The same on a machine that is not this one.
    pub async fn start_on(
        config: HostConfig,
        machine: impl FnOnce(&InstanceId) -> Machine,
    ) -> Result<Self, StartError> {
        Self::begin(Host::open_on(config, machine)?).await
    }

    async fn begin(host: Host) -> Result<Self, StartError> {
        let host = Arc::new(host);
        let found = sandbox::sweep(&host).await?;
        host.prune();
        let sandboxes = Sandboxes::new(host.clone());
        sandboxes.adopt(found).await;
        let (background, stop) = (TaskTracker::new(), CancellationToken::new());
        background.spawn(sandbox::keep_pool(host.clone(), stop.clone()));
        Ok(Self { sandboxes, host, background, stop })
    }

    /// Does to sandboxes what `on_close` says. What this installation made on the machine for all of them goes with the
    /// last that runs.
    pub async fn close(&self, on_close: OnClose) -> Closed {
        self.stop.cancel();
        self.background.close();
        let (left, ()) = tokio::join!(self.sandboxes.close(on_close), self.background.wait());
        let count = |status| self.sandboxes.list().iter().filter(|info| info.status == status).count();
        let closed = Closed { running: count(model::Status::Running), left };
        if closed.running > 0 {
            return closed;
        }
        if let Err(error) = self.host.network.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the host's firewall rules are left");
        }
        self.host.cgroups.close();
        closed
    }
}
