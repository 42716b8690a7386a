//! Compares records with what the host has, and puts both right.
//!
//! A pass reads the records first, then asks the host, so that a sandbox that appears in between is never taken for
//! lost; what to do is decided by the pure [`model::plan`]; every update is conditional, so that a pass may be
//! repeated at any time. Of earlier passes it remembers only when the host last answered and since when nobody wants
//! what it has. Knows nothing of requests.

mod snapshots;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use model::{Desired, HostId, Observed, OnExpiry, OnHost, Patience, SandboxId, SnapshotId, Status, Step, plan};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::host::{HostAgent, HostError, HostSandbox};
use crate::lifecycle::{Lifecycle, LifecycleError, STOPPED, TIME_OVER};
use crate::retention::Retainer;
use crate::store::{Action, Change, EventKind, Sandbox, Seat, Store, StoreError, Workers};

/// Why a sandbox is stopped whose machine went down under it.
const HOST_RESTARTED: &str = "host_restarted";

/// How soon a pass that failed is repeated, and how soon one follows a nudge.
const SOON: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_secs(1);

/// Of the time, passes that follow a nudge take at most one part in so many.
const SHARE: u32 = 10;

/// Compares the records of one host with it.
pub struct Reconciler {
    /// Whose records.
    pub host_id: HostId,
    /// The host itself.
    pub host: HostAgent,
    /// The records.
    pub store: Store,
    /// Completes deletes that were cut short.
    pub lifecycle: Lifecycle,
    /// Removes what is not kept any longer.
    pub retainer: Retainer,
    /// When to give something up.
    pub patience: Patience,
    /// Where everybody can see how it goes.
    pub report: watch::Sender<Report>,
    /// What earlier passes saw.
    pub memory: Memory,
}

/// What a pass remembers for the next.
#[derive(Debug)]
pub struct Memory {
    /// When the host last answered; at first, when the control plane started.
    pub heard: Timestamp,
    /// What the host has and no record wants, and since when that is known.
    pub unclaimed: HashMap<SandboxId, Timestamp>,
    /// The same of snapshots.
    pub unclaimed_snapshots: HashMap<SnapshotId, Timestamp>,
}

impl Memory {
    /// Of a control plane that has seen nothing yet.
    pub fn new(heard: Timestamp) -> Self {
        Self { heard, unclaimed: HashMap::new(), unclaimed_snapshots: HashMap::new() }
    }
}

/// How reconciling goes.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Whether this control plane is the one, of those on one database, that reconciles.
    pub leads: bool,
    /// Passes since the control plane started.
    pub passes: u64,
    /// Those of them that could not be completed.
    pub failed_passes: u64,
    /// When the last pass began that was completed.
    pub complete: Option<Timestamp>,
    /// Since when the host does not answer.
    pub silent_since: Option<Timestamp>,
    /// The last pass, complete or not.
    pub last: Option<Pass>,
    /// What all passes together did.
    pub total: Counts,
}

/// One pass.
#[derive(Debug, Clone)]
pub struct Pass {
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it looked at and did.
    pub counts: Counts,
    /// Why it could not be completed.
    pub error: Option<String>,
}

/// What a pass looked at and did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Records of sandboxes that the host should have.
    pub records: usize,
    /// Sandboxes that the host has.
    pub on_host: usize,
    /// Records that were put right.
    pub corrected: usize,
    /// Deletes that were completed.
    pub deleted: usize,
    /// Sandboxes that no record wanted and that were removed from the host.
    pub destroyed: usize,
    /// Steps that failed and will be tried again.
    pub failed: usize,
}

impl Counts {
    /// Adds what another pass did, not what it looked at.
    fn add_done(&mut self, other: &Self) {
        self.corrected += other.corrected;
        self.deleted += other.deleted;
        self.destroyed += other.destroyed;
        self.failed += other.failed;
    }
}

/// A pass that could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The host's sandboxes are unknown.
    #[error("the host does not answer")]
    Host(#[source] HostError),
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A delete that was cut short could not be completed.
    #[error("cannot complete the deletion of sandbox {id}")]
    Delete {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: LifecycleError,
    },
    /// What nobody wants could not be removed.
    #[error("cannot remove the unwanted sandbox {id}")]
    Destroy {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: HostError,
    },
    /// A snapshot that nobody wants could not be removed.
    #[error("cannot remove the unwanted snapshot {id}")]
    Snapshot {
        /// The snapshot.
        id: SnapshotId,
        /// Why.
        source: LifecycleError,
    },
    /// What is not kept any longer could not be removed.
    #[error("cannot remove what is not kept any longer")]
    Expire(#[source] LifecycleError),
}

impl Reconciler {
    /// Passes at every tick of `every`, and soon after a nudge or a failure. The first was made by the caller.
    pub async fn watch(mut self, mut seat: Seat, every: Duration, nudge: Arc<Notify>) {
        loop {
            let (leads, has_failed, took) = {
                let report = self.report.borrow();
                let last = report.last.as_ref();
                (
                    report.leads,
                    last.is_some_and(|last| last.error.is_some()),
                    last.map_or(Duration::ZERO, |last| last.took),
                )
            };
            // Whoever leads may be gone at any time.
            let pause = if has_failed || !leads { every.min(SOON) } else { every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // What failed together is looked at together. What a pass that failed could not do nudges too; that
                // must not become a loop without a pause.
                () = nudge.notified(), if leads && !has_failed => {
                    tokio::time::sleep((SHARE * took).max(AT_ONCE).min(every)).await;
                }
            }
            self.turn(&mut seat).await;
        }
    }

    /// A pass, if it is this control plane's turn.
    pub async fn turn(&mut self, seat: &mut Seat) {
        let had = self.report.borrow().leads;
        let leads = seat.leads().await;
        if leads && !had {
            // What this process saw before is from another time.
            self.memory = Memory::new(Timestamp::now());
        }
        self.report.send_modify(|report| report.leads = leads);
        if leads {
            self.pass(seat).await;
        }
    }

    /// One pass, reported and logged.
    pub async fn pass(&mut self, seat: &mut Seat) {
        let (began, clock) = (Timestamp::now(), Instant::now());
        let mut counts = Counts::default();
        let result = self.compare(began, seat, &mut counts).await;
        if let Err(error) = &result {
            tracing::warn!(error = error as &dyn std::error::Error, "records and host could not be brought to agree");
        }
        let pass = Pass { began, took: clock.elapsed(), counts, error: result.err().map(|error| error.to_string()) };
        let silent_since = (self.memory.heard < began).then_some(self.memory.heard);
        let was_silent = self.report.borrow().silent_since.is_some();
        let is_first = self.report.borrow().passes == 0;
        if silent_since.is_some() != was_silent && !is_first {
            let kind = if was_silent { EventKind::HostUp } else { EventKind::HostDown };
            if let Err(error) = self.store.record_host(&self.host_id, kind).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the host's event is not recorded");
            }
        }
        self.report.send_modify(|report| {
            report.passes += 1;
            match pass.error {
                Some(_) => report.failed_passes += 1,
                None => report.complete = Some(began),
            }
            report.silent_since = silent_since;
            report.total.add_done(&pass.counts);
            report.last = Some(pass);
        });
    }

    async fn compare(&mut self, began: Timestamp, seat: &mut Seat, counts: &mut Counts) -> Result<(), PassError> {
        let records = self.store.list_unfinished(&self.host_id).await?;
        counts.records = records.len();
        // Asked after the records were read: whoever began what they say was there by then.
        let workers = seat.workers().await;
        let mut addresses = HashMap::new();
        let (observed, mut result) = match self.ask().await {
            Ok(on_host) => {
                self.memory.heard = Timestamp::now();
                counts.on_host = on_host.len();
                addresses.extend(on_host.iter().map(|sandbox| (sandbox.id.clone(), sandbox.host_ip.clone())));
                (Observed::Sandboxes(self.claim(&records, on_host).await?), Ok(()))
            }
            Err(PassError::Host(error)) => (Observed::SilentSince(self.memory.heard), Err(PassError::Host(error))),
            Err(other) => return Err(other),
        };
        let desired: Vec<_> = records.iter().map(|record| desired(record, &workers)).collect();
        let records = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        let seen = Seen { records, addresses };
        for step in plan(&desired, &observed, began, &self.patience) {
            tracing::info!(?step, "record and host differ");
            let executed = self.execute(step, &seen, counts).await;
            counts.failed += usize::from(executed.is_err());
            // One sandbox that cannot be put right holds up no other.
            result = result.and(executed);
        }
        if matches!(observed, Observed::Sandboxes(_)) {
            let compared = self.compare_snapshots(began, counts).await;
            result = result.and(compared).and(self.expire(began, counts).await);
        }
        result
    }

    /// What the host has.
    async fn ask(&self) -> Result<Vec<HostSandbox>, PassError> {
        let facts = self.host.describe().await.map_err(PassError::Host)?;
        self.store.host_seen(&self.host_id, &facts).await?;
        self.host.list().await.map_err(PassError::Host)
    }

    /// Finds out which of the host's sandboxes no record wants. Records that were not there when the others were read
    /// are looked up again: they may have been made since.
    async fn claim(&mut self, records: &[Sandbox], on_host: Vec<HostSandbox>) -> Result<Vec<OnHost>, PassError> {
        let claimed: HashSet<_> = records.iter().map(|record| &record.id).collect();
        let now = Timestamp::now();
        let mut unclaimed = HashMap::new();
        let mut list = Vec::with_capacity(on_host.len());
        for HostSandbox { id, status, .. } in on_host {
            let is_wanted = claimed.contains(&id) || self.store.is_wanted(&id).await?;
            let since = (!is_wanted).then(|| self.memory.unclaimed.get(&id).copied().unwrap_or(now));
            unclaimed.extend(since.map(|since| (id.clone(), since)));
            list.push(OnHost { id, status, unclaimed_since: since });
        }
        self.memory.unclaimed = unclaimed;
        Ok(list)
    }

    async fn execute(&self, step: Step, seen: &Seen, counts: &mut Counts) -> Result<(), PassError> {
        match step {
            Step::Record { id, status, reason } => {
                let change = match status {
                    Status::Running => {
                        let address = seen.addresses.get(&id).cloned().unwrap_or_default();
                        Change::found_running().with_host_ip(address)
                    }
                    other => match happened(other, &seen.records[&id], &reason) {
                        Some(action) => Change::because(other, reason).with_action(action),
                        None => Change::because(other, reason),
                    },
                };
                if status == Status::Paused {
                    self.lifecycle.keep_metrics(&id).await;
                }
                // Losing this means that somebody knows better by now.
                counts.corrected += usize::from(self.store.update(&seen.records[&id], change).await?.is_some());
            }
            Step::KeepDisk { id } => {
                let record = &seen.records[&id];
                counts.corrected += usize::from(self.store.update(record, halted(record)).await?.is_some());
            }
            Step::Delete { id } => {
                let deleted = self.lifecycle.delete(seen.records[&id].owner.clone(), id.clone()).await;
                deleted.map_err(|source| PassError::Delete { id, source })?;
                counts.deleted += 1;
            }
            Step::Destroy { id } => match self.host.destroy(&id).await {
                Err(source) if !source.is_not_found() => return Err(PassError::Destroy { id, source }),
                _ => counts.destroyed += 1,
            },
        }
        Ok(())
    }
}

/// What becomes of the record of a sandbox of which its host has the disk alone.
fn halted(record: &Sandbox) -> Change {
    match record.status {
        // Somebody had begun to stop it, or to start it, and nobody recorded how that ended.
        Status::Pausing | Status::Paused | Status::Resuming | Status::Pending => Change::stopped_with_disk(STOPPED),
        _ if record.on_expiry == OnExpiry::Stop && record.is_idle(Timestamp::now()) => {
            Change::stopped_with_disk(TIME_OVER).with_action(Action::by_itself(EventKind::Pause, TIME_OVER))
        }
        _ => {
            Change::stopped_with_disk(HOST_RESTARTED).with_action(Action::by_itself(EventKind::Destroy, HOST_RESTARTED))
        }
    }
}

/// What a host has done by itself, as far as its sandbox's new status tells.
fn happened(status: Status, record: &Sandbox, reason: &str) -> Option<Action> {
    let reason = if record.is_idle(Timestamp::now()) { TIME_OVER } else { reason };
    match status {
        Status::Paused if record.status == Status::Running => Some(Action::by_itself(EventKind::Pause, reason)),
        Status::Stopped => Some(Action::by_itself(EventKind::Destroy, reason)),
        _ => None,
    }
}

/// What one pass has read.
struct Seen {
    records: HashMap<SandboxId, Sandbox>,
    /// How the host reaches what it has.
    addresses: HashMap<SandboxId, String>,
}

fn desired(record: &Sandbox, workers: &Workers) -> Desired {
    Desired {
        id: record.id.clone(),
        status: record.status,
        last_updated: record.last_updated,
        work: workers.work(record.hands),
        last_active: record.last_active_at,
        lifetime: record.lifetime,
    }
}
