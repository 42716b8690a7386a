//! Unary calls about the host's disk.

use std::time::Duration;

use proto::hostagent::v1 as pb;

use super::calls::within;
use super::{HostAgent, HostError};

const USAGE: Duration = Duration::from_secs(60);
const PRUNE: Duration = Duration::from_secs(120);

/// What a host's disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the file system that the host's data is on.
    pub total_bytes: i64,
    /// Of these, nobody has.
    pub free_bytes: i64,
    /// Of these, no sandbox gets.
    pub reserve_bytes: i64,
    /// What takes something of it; all of them together are what the host takes.
    pub uses: Vec<DiskUse>,
}

/// Something that takes disk space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUse {
    /// `sandbox`, `snapshot`, `bake`, `template` or `monitor`.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// What it takes.
    pub bytes: i64,
    /// Whether pruning would remove it.
    pub is_prunable: bool,
}

/// Whether something is done or only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    /// Nothing is removed.
    Yes,
    /// It is removed.
    No,
}

impl HostAgent {
    /// What everything takes of the host's disk.
    pub async fn disk_usage(&self) -> Result<DiskUsage, HostError> {
        let reply = self.host.get_disk_usage_with_options(Default::default(), within(USAGE)).await?.into_owned();
        Ok(DiskUsage {
            total_bytes: reply.total_bytes,
            free_bytes: reply.free_bytes,
            reserve_bytes: reply.reserve_bytes,
            uses: reply.uses.into_iter().map(disk_use).collect(),
        })
    }

    /// Removes what can be made again and nothing uses, or tells what that would be.
    pub async fn prune(&self, dry_run: DryRun) -> Result<Vec<DiskUse>, HostError> {
        let request = pb::PruneRequest { dry_run: dry_run == DryRun::Yes, ..Default::default() };
        let reply = self.host.prune_with_options(request, within(PRUNE)).await?.into_owned();
        Ok(reply.removed.into_iter().map(disk_use).collect())
    }
}

fn disk_use(seen: pb::DiskUse) -> DiskUse {
    DiskUse { kind: seen.kind, id: seen.id, bytes: seen.bytes, is_prunable: seen.is_prunable }
}
