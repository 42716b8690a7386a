//! The part of a pass that is about snapshots, and about what is not kept any longer.

use std::collections::HashMap;

use jiff::Timestamp;
use model::{HeldSnapshot, RecordedSnapshot, SnapshotId, SnapshotKind, SnapshotStatus, SnapshotStep, plan_snapshots};

use super::{Counts, PassError, Reconciler};
use crate::host::HostSnapshot;
use crate::lifecycle::LifecycleError;
use crate::store::{Action, EventKind, Needed, Snapshot};

/// What one pass has read.
struct Seen {
    records: HashMap<SnapshotId, Snapshot>,
    /// What the host's snapshots take on its disk.
    sizes: HashMap<SnapshotId, i64>,
}

impl Reconciler {
    /// Compares the records of snapshots with what the host has.
    pub(super) async fn compare_snapshots(&mut self, began: Timestamp, counts: &mut Counts) -> Result<(), PassError> {
        // Read before the host is asked, as those of sandboxes are.
        let records = self.store.list_snapshots_on(&self.host_id).await?;
        let Some(held) = self.host.list_snapshots().await.map_err(PassError::Host)? else { return Ok(()) };
        let sizes = held.iter().map(|snapshot| (snapshot.id.clone(), snapshot.size_bytes)).collect();
        let recorded: Vec<_> = records.iter().map(recorded).collect();
        let seen = Seen { records: records.into_iter().map(|record| (record.id.clone(), record)).collect(), sizes };
        let held = self.claim_snapshots(&seen, held).await?;
        let mut result = Ok(());
        for step in plan_snapshots(&recorded, &held, began, &self.patience) {
            tracing::info!(?step, "record and host differ");
            let executed = self.execute_on_snapshot(step, &seen, counts).await;
            counts.failed += usize::from(executed.is_err());
            result = result.and(executed);
        }
        result
    }

    /// Finds out which of the host's snapshots have no record. Records that were not there when the others were read are
    /// looked up again: they may have been made since.
    async fn claim_snapshots(&mut self, seen: &Seen, held: Vec<HostSnapshot>) -> Result<Vec<HeldSnapshot>, PassError> {
        let now = Timestamp::now();
        let mut unclaimed = HashMap::new();
        let mut list = Vec::with_capacity(held.len());
        for HostSnapshot { id, .. } in held {
            let is_claimed = seen.records.contains_key(&id) || self.store.has_snapshot(&id).await?;
            let known = &self.memory.unclaimed_snapshots;
            let since = (!is_claimed).then(|| known.get(&id).copied().unwrap_or(now));
            unclaimed.extend(since.map(|since| (id.clone(), since)));
            list.push(HeldSnapshot { id, unclaimed_since: since });
        }
        self.memory.unclaimed_snapshots = unclaimed;
        Ok(list)
    }

    async fn execute_on_snapshot(&self, step: SnapshotStep, seen: &Seen, counts: &mut Counts) -> Result<(), PassError> {
        match step {
            SnapshotStep::Complete { id } => {
                let size = seen.sizes.get(&id).copied().unwrap_or_default();
                let made = Action::by_itself(EventKind::SnapshotCreate, "its capture was completed");
                // Losing this means that somebody knows better by now.
                let Some(completed) = self.store.complete_snapshot(&seen.records[&id], size, Some(made)).await? else {
                    return Ok(());
                };
                counts.corrected += 1;
                match completed.replaced {
                    Some(replaced) => self.discard(&replaced, "it was replaced").await,
                    None => Ok(()),
                }
            }
            SnapshotStep::Forget { id } => {
                let record = &seen.records[&id];
                let forgotten = self.store.forget_snapshot(record, farewell(record)).await?;
                counts.corrected += usize::from(forgotten);
                Ok(())
            }
            SnapshotStep::Discard { id } => {
                let record = &seen.records[&id];
                let condemned = match record.status {
                    SnapshotStatus::Deleting => Some(record.clone()),
                    _ => self.store.condemn_snapshot(record, Needed::DoesNotMatter).await?,
                };
                let Some(condemned) = condemned else { return Ok(()) };
                self.discard(&condemned, "its deletion was completed").await?;
                counts.deleted += 1;
                Ok(())
            }
            SnapshotStep::Destroy { id } => {
                let destroyed = self.host.delete_snapshot(&id).await;
                destroyed.map_err(|source| PassError::Snapshot { id, source: LifecycleError::Host(source) })?;
                counts.destroyed += 1;
                Ok(())
            }
        }
    }

    async fn discard(&self, condemned: &Snapshot, reason: &str) -> Result<(), PassError> {
        let is_told = condemned.kind == SnapshotKind::Named;
        let action = is_told.then(|| Action::by_itself(EventKind::SnapshotDelete, reason));
        let discarded = self.lifecycle.discard(condemned, action).await;
        discarded.map_err(|source| PassError::Snapshot { id: condemned.id.clone(), source })
    }

    /// Removes what is not kept any longer.
    pub(super) async fn expire(&self, now: Timestamp, counts: &mut Counts) -> Result<(), PassError> {
        let mut result = Ok(());
        for expired in self.retainer.expired(&self.host_id, now).await? {
            tracing::info!(%expired, "not kept any longer");
            match self.retainer.remove(expired).await {
                Ok(is_gone) => counts.deleted += usize::from(is_gone),
                Err(source) => {
                    counts.failed += 1;
                    result = result.and(Err(PassError::Expire(source)));
                }
            }
        }
        result
    }
}

/// What is told of a snapshot that its host does not have.
fn farewell(record: &Snapshot) -> Option<Action> {
    match (record.kind, record.status) {
        (SnapshotKind::Fork, _) => None,
        (SnapshotKind::Named, SnapshotStatus::Pending) => {
            Some(Action::failed(EventKind::SnapshotCreate, "its capture was given up".to_owned()))
        }
        (SnapshotKind::Named, _) => Some(Action::by_itself(EventKind::SnapshotDelete, "it is no longer on its host")),
    }
}

fn recorded(record: &Snapshot) -> RecordedSnapshot {
    RecordedSnapshot {
        id: record.id.clone(),
        status: record.status,
        kind: record.kind,
        last_updated: record.last_updated,
    }
}
