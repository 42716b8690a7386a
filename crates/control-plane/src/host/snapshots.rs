//! Unary calls about snapshots.

use std::time::Duration;

use connectrpc::ErrorCode;
use model::{Extent, SandboxId, SnapshotId};
use proto::hostagent::v1 as pb;

use super::calls::within;
use super::{HostAgent, HostError};

/// A large memory is copied and made durable.
const CREATE: Duration = Duration::from_secs(180);
const DELETE: Duration = Duration::from_secs(60);
const LIST: Duration = Duration::from_secs(15);

/// A snapshot as its host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What its files take on the disk.
    pub size_bytes: i64,
}

impl HostAgent {
    /// Captures a running or paused sandbox, which goes on as it was. Returns what the snapshot takes on the disk.
    pub async fn create_snapshot(
        &self,
        sandbox: &SandboxId,
        snapshot: &SnapshotId,
        extent: Extent,
    ) -> Result<i64, HostError> {
        let request = pb::CreateSnapshotRequest {
            sandbox_id: sandbox.to_string(),
            snapshot_id: snapshot.to_string(),
            disk_only: extent == Extent::Disk,
            ..Default::default()
        };
        let reply = self.host.create_snapshot_with_options(request, within(CREATE)).await?.into_owned();
        Ok(reply.snapshot.into_option().map(|info| info.size_bytes).unwrap_or_default())
    }

    /// Removes a snapshot. Having none is no error.
    pub async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), HostError> {
        let request = pb::DeleteSnapshotRequest { snapshot_id: id.to_string(), ..Default::default() };
        match self.host.delete_snapshot_with_options(request, within(DELETE)).await.map_err(HostError::from) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Every snapshot that the host has; `None` where the host agent is too old to have any.
    pub async fn list_snapshots(&self) -> Result<Option<Vec<HostSnapshot>>, HostError> {
        let reply = self.host.list_snapshots_with_options(Default::default(), within(LIST)).await;
        match reply.map_err(HostError::from) {
            Ok(reply) => {
                reply.into_owned().snapshots.into_iter().map(host_snapshot).collect::<Result<_, _>>().map(Some)
            }
            Err(error) if error.code() == Some(ErrorCode::Unimplemented) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn host_snapshot(info: pb::SnapshotInfo) -> Result<HostSnapshot, HostError> {
    let unreadable = |error: model::InvalidId| {
        HostError::answered(ErrorCode::Internal, &format!("the host lists a snapshot that makes no sense: {error}"))
    };
    Ok(HostSnapshot { id: info.snapshot_id.parse().map_err(unreadable)?, size_bytes: info.size_bytes })
}
