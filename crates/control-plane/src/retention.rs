//! What is kept for its owner only for so long, or only so much of it: snapshots and paused sandboxes.
//!
//! Looks at records alone. What has just been used, or is needed by something, is not removed, because each removal
//! names what was seen.

use std::collections::HashSet;
use std::fmt;

use jiff::Timestamp;
use model::{HostId, Kept, OwnerId, Retention, SnapshotKind, SnapshotStatus, Status, Surplus};

use crate::lifecycle::{Lifecycle, LifecycleError};
use crate::store::{Sandbox, Snapshot, Store, StoreError};

/// What is kept; by default everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionPolicy {
    /// Of each owner's snapshots; their last use is the last sandbox that was made from them.
    pub snapshots: Retention,
    /// Of each owner's paused sandboxes, and stopped ones whose disks are kept; their last use is the pause or stop.
    pub paused: Retention,
}

/// Finds and removes what is not kept any longer; cheap to clone.
#[derive(Clone)]
pub struct Retainer {
    /// The records.
    pub store: Store,
    /// What removes things.
    pub lifecycle: Lifecycle,
    /// What is kept.
    pub policy: RetentionPolicy,
}

/// Something that is not kept any longer.
#[derive(Debug, Clone)]
pub struct Expired {
    /// What it is.
    pub what: Expiring,
    /// Why it goes.
    pub why: Surplus,
}

/// What can be removed because nobody has used it.
#[derive(Debug, Clone)]
pub enum Expiring {
    /// A paused sandbox.
    Sandbox(Box<Sandbox>),
    /// A snapshot that no live sandbox came from.
    Snapshot(Box<Snapshot>),
}

impl Expired {
    /// Whose it is.
    pub fn owner(&self) -> &OwnerId {
        match &self.what {
            Expiring::Sandbox(sandbox) => &sandbox.owner,
            Expiring::Snapshot(snapshot) => &snapshot.owner,
        }
    }
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Expiring::Sandbox(sandbox) => write!(f, "sandbox {}: {}", sandbox.id, self.why),
            Expiring::Snapshot(snapshot) => write!(f, "snapshot {}: {}", snapshot.id, self.why),
        }
    }
}

impl Retainer {
    /// Everybody's things on a host that are not kept any longer.
    pub async fn expired(&self, host: &HostId, now: Timestamp) -> Result<Vec<Expired>, StoreError> {
        if self.policy == RetentionPolicy::default() {
            return Ok(Vec::new());
        }
        let sandboxes = self.store.list_unfinished(host).await?;
        let snapshots = self.store.list_snapshots_on(host).await?;
        let needed: HashSet<_> = sandboxes.iter().filter_map(|sandbox| sandbox.snapshot.clone()).collect();
        let snapshots = snapshots.into_iter().filter(is_kept).map(|snapshot| Kept {
            owner: snapshot.owner.clone(),
            last_used: snapshot.last_used_at.unwrap_or(snapshot.created_at),
            is_needed: needed.contains(&snapshot.id),
            item: Expiring::Snapshot(Box::new(snapshot)),
        });
        let snapshots = self.policy.snapshots.surplus(snapshots.collect(), now);
        let is_on_disk = |sandbox: &Sandbox| sandbox.status == Status::Paused || sandbox.keeps_disk;
        let paused = sandboxes.into_iter().filter(is_on_disk).map(|sandbox| Kept {
            owner: sandbox.owner.clone(),
            last_used: sandbox.last_updated,
            is_needed: false,
            item: Expiring::Sandbox(Box::new(sandbox)),
        });
        let paused = self.policy.paused.surplus(paused.collect(), now);
        Ok(snapshots.into_iter().chain(paused).map(|(what, why)| Expired { what, why }).collect())
    }

    /// Removes it, unless somebody has used it since. Returns whether it is gone.
    pub async fn remove(&self, expired: Expired) -> Result<bool, LifecycleError> {
        let why = expired.why.to_string();
        match expired.what {
            Expiring::Sandbox(sandbox) => self.lifecycle.expire(*sandbox, why).await,
            Expiring::Snapshot(snapshot) => self.lifecycle.expire_snapshot(*snapshot, why).await,
        }
    }
}

fn is_kept(snapshot: &Snapshot) -> bool {
    (snapshot.kind, snapshot.status) == (SnapshotKind::Named, SnapshotStatus::Ready)
}
