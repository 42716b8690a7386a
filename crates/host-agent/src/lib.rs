//! Runs sandboxes on one host.
//!
//! One owner task per sandbox ([`sandbox`]) drives the parts that know nothing of each other: [`template`] (what it
//! boots from), [`net`] (its namespace and addresses), [`jail`] (how its monitor is confined) and the `vmm` crate (the
//! virtual machine). [`service`] is the edge that the control plane calls; [`guest`] speaks to the agent inside.

pub mod cgroup;
pub mod disk;
pub mod egress;
mod files;
pub mod guest;
mod host;
pub mod jail;
pub mod net;
pub mod sandbox;
pub mod service;
pub mod snapshot;
pub mod template;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use host::{Host, HostConfig, HostError};
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
    /// Opens the host, takes over paused sandboxes of an earlier run and removes what else it left.
    pub async fn start(config: HostConfig) -> Result<Self, StartError> {
        let host = Arc::new(Host::open(config).await?);
        let paused = sandbox::sweep(&host).await?;
        host.prune();
        let sandboxes = Sandboxes::new(host.clone());
        sandboxes.adopt(paused);
        let (background, stop) = (TaskTracker::new(), CancellationToken::new());
        background.spawn(sandbox::keep_pool(host.clone(), stop.clone()));
        Ok(Self { sandboxes, host, background, stop })
    }

    /// Removes sandboxes, unless they are or can be on disk, and what this installation made on the machine for all of
    /// them. Returns what is left.
    pub async fn close(&self, on_close: OnClose) -> Vec<(model::SandboxId, DestroyError)> {
        self.stop.cancel();
        self.background.close();
        let (left, ()) = tokio::join!(self.sandboxes.close(on_close), self.background.wait());
        if let Err(error) = self.host.network.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the host's firewall rules are left");
        }
        self.host.cgroups.close();
        left
    }
}
