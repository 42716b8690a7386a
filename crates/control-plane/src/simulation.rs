//! A control plane's records without the machines: as many sandboxes on as many hosts as a measurement wants, in a
//! database that is used for nothing else.
//!
//! Hosts are the caller's to simulate; a pass over them is the reconciler's own. The control plane itself calls one
//! host agent for now, so several hosts have several reconcilers here, one after another.

mod process;

use std::sync::Arc;

use jiff::Timestamp;
use model::{HostId, OwnerId, Patience, SandboxId};
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::config::{Config, HostAgentAddress};
use crate::host::HostAgent;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::reconcile::{Memory, Reconciler, Report};
use crate::retention::Retainer;
use crate::store::{OpenError, Seat, Store, StoreError};
use crate::store_url::StoreUrl;
use crate::token_key::TokenKey;

pub use process::{Failure, Recorded, Records, SimulatedControlPlane, Wish};

/// Made-up records in a database.
#[derive(Debug, Clone)]
pub struct Simulation {
    store: Store,
}

/// A database that cannot be filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulationError {
    /// It cannot be used at all.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else's records would be in the way, and be removed in the end.
    #[error("the database holds sandboxes or keys; name one that is empty")]
    Used,
    /// A pass did not do what it should.
    #[error("a pass over {host} went wrong: {problem}")]
    Pass {
        /// Over which host.
        host: HostId,
        /// What is wrong.
        problem: String,
    },
}

/// A host that is not there, and the sandboxes that its records name.
#[derive(Debug, Clone)]
pub struct SimulatedHost {
    /// Its name in the records.
    pub id: HostId,
    /// Its sandboxes, all of them running.
    pub sandboxes: Vec<SandboxId>,
}

/// The reconcilers of some hosts.
pub struct Passes(Vec<Reconciler>);

impl Simulation {
    /// Opens an empty database, or makes it.
    pub async fn open(url: &StoreUrl) -> Result<Self, SimulationError> {
        let store = Store::open(url).await?;
        if !store.is_unused().await? {
            return Err(SimulationError::Used);
        }
        Ok(Self { store })
    }

    /// What the database is, with its version.
    pub async fn engine(&self) -> Result<String, SimulationError> {
        Ok(self.store.engine().await?)
    }

    /// Records a host with that many running sandboxes of `owner`.
    pub async fn add_host(
        &self,
        id: HostId,
        owner: &OwnerId,
        sandboxes: usize,
    ) -> Result<SimulatedHost, SimulationError> {
        let sandboxes = self.store.insert_simulated(&id, owner, sandboxes).await?;
        Ok(SimulatedHost { id, sandboxes })
    }

    /// Lets the database know what it holds, as it would by itself after some minutes.
    pub async fn settle(&self) -> Result<(), SimulationError> {
        Ok(self.store.analyze().await?)
    }

    /// Reconcilers for these hosts, whose agents answer at these addresses.
    pub fn passes(&self, hosts: &[(HostId, HostAgentAddress)]) -> Passes {
        let reconciler = |(id, address): &(HostId, HostAgentAddress)| {
            let config = Config::new(StoreUrl::Sqlite(Default::default()), TokenKey::random(), address.clone());
            let (metrics, nudge, now) = (Metrics::new(), Arc::new(Notify::new()), Timestamp::now());
            let host = HostAgent::new(address, metrics.clone());
            let lifecycle = Lifecycle::new(self.store.clone(), host.clone(), TaskTracker::new(), nudge, metrics);
            Reconciler {
                host_id: id.clone(),
                host,
                store: self.store.clone(),
                retainer: Retainer {
                    store: self.store.clone(),
                    lifecycle: lifecycle.clone(),
                    policy: config.retention,
                },
                lifecycle,
                patience: Patience {
                    started: now,
                    transient: config.missing_after,
                    abandoned: config.missing_after,
                    orphan: config.orphan_grace,
                    silence: config.missing_after,
                },
                report: watch::Sender::new(Report::default()),
                memory: Memory::new(now),
            }
        };
        Passes(hosts.iter().map(reconciler).collect())
    }

    /// Removes everything from the database, and lets go of it.
    pub async fn remove(self) -> Result<(), SimulationError> {
        self.store.remove_everything().await?;
        self.store.close().await;
        Ok(())
    }
}

impl Passes {
    /// One pass over each host. Returns how many records were compared; all of them must agree with their hosts.
    pub async fn run(&mut self) -> Result<usize, SimulationError> {
        let mut records = 0;
        for reconciler in &mut self.0 {
            reconciler.pass(&mut Seat::only()).await;
            let report = reconciler.report.borrow();
            let Some(pass) = report.last.as_ref() else { continue };
            let counts = pass.counts;
            let changed = counts.corrected + counts.deleted + counts.destroyed + counts.failed;
            let problem = match &pass.error {
                Some(error) => Some(error.clone()),
                None if changed > 0 || counts.records != counts.on_host => Some(format!("{counts:?}")),
                None => None,
            };
            if let Some(problem) = problem {
                return Err(SimulationError::Pass { host: reconciler.host_id.clone(), problem });
            }
            records += counts.records;
        }
        Ok(records)
    }
}
