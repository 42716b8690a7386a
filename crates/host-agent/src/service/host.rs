//! Our own service: the host itself.

use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;
use proto::hostagent::v1::{
    BenchmarkSpawnRequest, BenchmarkSpawnResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    DeleteSnapshotRequest, DeleteSnapshotResponse, GetDiskUsageRequest, GetDiskUsageResponse, GetHostRequest,
    GetHostResponse, HostService as Service, ListSnapshotsRequest, ListSnapshotsResponse, PruneRequest, PruneResponse,
    WatchSandboxesRequest, WatchSandboxesResponse,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::error::IntoConnect;
use crate::HostAgent;

/// Enough for a median.
const DEFAULT_RUNS: u32 = 20;

pub(super) struct HostService {
    agent: Arc<HostAgent>,
    /// Set when the port ends.
    ending: CancellationToken,
}

impl HostService {
    pub fn new(agent: Arc<HostAgent>, ending: CancellationToken) -> Self {
        Self { agent, ending }
    }
}

/// The guest agent's answer to a benchmark.
#[derive(Deserialize)]
struct Timing {
    count: u32,
    median_us: u64,
    min_us: u64,
}

impl Service for HostService {
    async fn get_host(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, GetHostRequest>,
    ) -> ServiceResult<GetHostResponse> {
        let host = &self.agent.host;
        let vmm = host.vmm.info();
        let templates = host.templates.list().map_err(IntoConnect::into_connect)?;
        Response::ok(GetHostResponse {
            instance_id: host.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accelerator: vmm.accelerator.to_string(),
            vmm_version: vmm.version,
            templates: templates
                .into_iter()
                .filter(|listed| listed.template.is_ok())
                .map(|listed| listed.name.to_string())
                .collect(),
            building_templates: host.templates.announced().iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }

    async fn benchmark_spawn(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, BenchmarkSpawnRequest>,
    ) -> ServiceResult<BenchmarkSpawnResponse> {
        let id = request.sandbox_id.parse().map_err(|error: model::InvalidId| error.into_connect())?;
        let count = match request.count {
            0 => DEFAULT_RUNS,
            count @ 1..=1000 => count,
            _ => return Err(ConnectError::invalid_argument("count must be at most 1000")),
        };
        let using = self.agent.sandboxes.use_guest(&id).map_err(IntoConnect::into_connect)?;
        let answer = using.guest.benchmark_spawn(count).await.map_err(IntoConnect::into_connect)?;
        let garbled = |_| ConnectError::internal("the guest agent's answer cannot be understood");
        let timing: Timing = serde_json::from_slice(&answer).map_err(garbled)?;
        Response::ok(BenchmarkSpawnResponse {
            count: timing.count,
            median_us: timing.median_us,
            min_us: timing.min_us,
            ..Default::default()
        })
    }

    async fn create_snapshot(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, CreateSnapshotRequest>,
    ) -> ServiceResult<CreateSnapshotResponse> {
        Err(ConnectError::unimplemented("CreateSnapshot"))
    }

    async fn delete_snapshot(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, DeleteSnapshotRequest>,
    ) -> ServiceResult<DeleteSnapshotResponse> {
        Err(ConnectError::unimplemented("DeleteSnapshot"))
    }

    async fn list_snapshots(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListSnapshotsRequest>,
    ) -> ServiceResult<ListSnapshotsResponse> {
        Err(ConnectError::unimplemented("ListSnapshots"))
    }

    async fn get_disk_usage(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, GetDiskUsageRequest>,
    ) -> ServiceResult<GetDiskUsageResponse> {
        Err(ConnectError::unimplemented("GetDiskUsage"))
    }

    async fn prune(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, PruneRequest>,
    ) -> ServiceResult<PruneResponse> {
        Err(ConnectError::unimplemented("Prune"))
    }

    async fn watch_sandboxes(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, WatchSandboxesRequest>,
    ) -> ServiceResult<ServiceStream<WatchSandboxesResponse>> {
        let mut changes = self.agent.sandboxes.changes();
        changes.mark_changed();
        let messages = futures::stream::unfold(changes, async |mut changes| {
            changes.changed().await.ok()?;
            Some((Ok(WatchSandboxesResponse::default()), changes))
        });
        Response::stream_ok(messages.take_until(self.ending.clone().cancelled_owned()))
    }
}
