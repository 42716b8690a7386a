//! A whole control plane without sockets, for a simulation: its lifecycle and its reconciler on records in memory, with
//! a host agent that is reached by whatever the simulation puts between them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{
    AutoResume, Extent, HostId, Lifetime, OnExpiry, OwnerId, SandboxId, Shape, SnapshotId, SnapshotRef, StartMode,
    Status, TemplateName,
};

use crate::config::{Config, HostAgentAddress};
use crate::host::{HostAgent, InProcess};
use crate::lifecycle::{Lifecycle, LifecycleError, Making, WhileBuilding};
use crate::metrics::Metrics;
use crate::server::ControlPlane;
use crate::store::{Memory, Naming, NewSandbox, OpenError, Others, Seat, Store, StoreError, Way};
use crate::store_url::StoreUrl;
use crate::token_key::TokenKey;

/// The records of a simulated installation. They survive their control planes.
#[derive(Clone)]
pub struct Records(Memory);

/// What a record of a sandbox says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Which sandbox.
    pub id: SandboxId,
    /// Its state.
    pub status: Status,
    /// Why.
    pub reason: String,
    /// Whether its disk is kept while it is stopped.
    pub keeps_disk: bool,
}

/// A control plane that runs until nothing reaches its records any more.
#[derive(Clone)]
pub struct SimulatedControlPlane {
    lifecycle: Lifecycle,
    host_id: HostId,
}

/// Something that did not happen, or not completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One word, out of a small set.
    pub reason: &'static str,
    /// All that there is to say.
    pub message: String,
}

impl From<LifecycleError> for Failure {
    fn from(error: LifecycleError) -> Self {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self { reason: error.reason(), message }
    }
}

/// A sandbox that somebody wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What it is to be called.
    pub id: SandboxId,
    /// What is under its disk.
    pub template: TemplateName,
    /// What it is made of.
    pub shape: Shape,
    /// When it expires.
    pub lifetime: Lifetime,
    /// What expiry does to it.
    pub on_expiry: OnExpiry,
    /// What it goes on from.
    pub snapshot: Option<SnapshotId>,
}

impl Records {
    /// None yet.
    pub fn new() -> Result<Self, OpenError> {
        Ok(Self(Memory::new()?))
    }

    /// Every sandbox that is recorded, without an owner's or a control plane's eyes.
    pub fn all(&self) -> Result<Vec<Recorded>, StoreError> {
        let all = Store::in_memory(self.0.clone(), None).every_sandbox()?;
        let recorded = |one: crate::store::Sandbox| Recorded {
            id: one.id,
            status: one.status,
            reason: one.status_reason,
            keeps_disk: one.keeps_disk,
        };
        Ok(all.into_iter().map(recorded).collect())
    }

    /// Every snapshot that is recorded.
    pub fn snapshots(&self) -> Result<Vec<SnapshotId>, StoreError> {
        Store::in_memory(self.0.clone(), None).every_snapshot()
    }
}

impl SimulatedControlPlane {
    /// Opens the records by `way`, settles what is unfinished in them, and goes on by itself from then on.
    pub async fn start(records: &Records, way: Arc<dyn Way>, host: InProcess, every: Duration) -> Self {
        let since = Timestamp::now();
        let store = Store::in_memory(records.0.clone(), Some(way));
        let nowhere = HostAgentAddress::Unix(Default::default());
        let config = Config {
            reconcile_interval: every,
            ..Config::new(StoreUrl::Sqlite(Default::default()), TokenKey::random(), nowhere)
        };
        let metrics = Metrics::new();
        let host = HostAgent::in_process(host, metrics.clone());
        let seat = (Seat::only(), Others::None);
        let (lifecycle, host_id) = ControlPlane::with(config, since, store, seat, host, metrics).await.go();
        Self { lifecycle, host_id }
    }

    /// Makes a sandbox.
    pub async fn create(&self, wish: Wish) -> Result<Status, Failure> {
        let new = NewSandbox {
            id: wish.id,
            owner: OwnerId::nobody(),
            host: self.host_id.clone(),
            template: wish.template,
            snapshot: wish.snapshot,
            shape: wish.shape,
            lifetime: wish.lifetime,
            on_expiry: wish.on_expiry,
            auto_resume: AutoResume::Off,
            metadata: Default::default(),
            traffic_token: None,
            network: Default::default(),
            request_host: None,
            https_ports: Default::default(),
            guest_access: Default::default(),
            env: Default::default(),
            ends_at: None,
        };
        let making = Making { while_building: WhileBuilding::Refuse, start: StartMode::Auto };
        Ok(self.lifecycle.create(new, making, None).await?.status)
    }

    /// Pauses one.
    pub async fn pause(&self, id: SandboxId) -> Result<Status, Failure> {
        Ok(self.lifecycle.pause(OwnerId::nobody(), id).await?.status)
    }

    /// Keeps the disk of one alone.
    pub async fn stop(&self, id: SandboxId) -> Result<Status, Failure> {
        Ok(self.lifecycle.stop(OwnerId::nobody(), id).await?.status)
    }

    /// Lets one go on.
    pub async fn resume(&self, id: SandboxId) -> Result<Status, Failure> {
        Ok(self.lifecycle.resume(OwnerId::nobody(), id).await?.status)
    }

    /// Boots one from its disk, whatever else was kept of it.
    pub async fn restart(&self, id: SandboxId) -> Result<Status, Failure> {
        Ok(self.lifecycle.resume_from(OwnerId::nobody(), id, Extent::Disk).await?.status)
    }

    /// Removes one.
    pub async fn delete(&self, id: SandboxId) -> Result<(), Failure> {
        Ok(self.lifecycle.delete(OwnerId::nobody(), id).await?)
    }

    /// Captures one.
    pub async fn snapshot(&self, id: SandboxId, snapshot: SnapshotId, extent: Extent) -> Result<(), Failure> {
        self.lifecycle.snapshot(OwnerId::nobody(), id, snapshot, Naming::Unnamed, extent).await?;
        Ok(())
    }

    /// Removes a capture.
    pub async fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<(), Failure> {
        Ok(self.lifecycle.delete_snapshot(OwnerId::nobody(), SnapshotRef::Id(snapshot)).await?)
    }

    /// Makes a sandbox that goes on from where another is.
    pub async fn fork(&self, parent: SandboxId, child: SandboxId) -> Result<(), Failure> {
        self.lifecycle.fork(OwnerId::nobody(), parent, vec![child]).await?;
        Ok(())
    }
}
