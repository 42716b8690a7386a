//! Our own service: the host itself.

use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;
use model::{Extent, Generation, InvalidId, SnapshotId};
use proto::hostagent::v1::{
    BenchmarkSpawnRequest, BenchmarkSpawnResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    DeleteSnapshotRequest, DeleteSnapshotResponse, DiskUse as WireUse, GetDiskUsageRequest, GetDiskUsageResponse,
    GetFootprintRequest, GetFootprintResponse, GetHostRequest, GetHostResponse, GetSandboxNetworkRequest,
    GetSandboxNetworkResponse, HostService as Service, LackingLayer as WireLayer, ListSnapshotsRequest,
    ListSnapshotsResponse, NetworkDenials, PruneRequest, PruneResponse, SetSandboxNetworkRequest,
    SetSandboxNetworkResponse, SnapshotInfo, StopSandboxRequest, StopSandboxResponse, TemplateBuild,
    WatchSandboxesRequest, WatchSandboxesResponse,
};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::error::IntoConnect;
use super::policy::{policy_of, wire_policy};
use super::sandboxes::parse_id;
use crate::HostAgent;
use crate::disk::{self, DiskUse, PruneError};
use crate::jail::LackingLayer;
use crate::net::Denials;
use crate::snapshot::Frozen;
use crate::template::Manifest;

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

fn parse_snapshot_id(text: &str) -> Result<SnapshotId, ConnectError> {
    text.parse().map_err(|error: InvalidId| error.into_connect())
}

fn wire_snapshot(id: &SnapshotId, frozen: &Frozen) -> SnapshotInfo {
    let small = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let large = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let manifest = &frozen.manifest;
    let shape = manifest.origin.shape;
    SnapshotInfo {
        snapshot_id: id.to_string(),
        sandbox_id: manifest.sandbox.as_ref().map(ToString::to_string).unwrap_or_default(),
        template: manifest.origin.template.to_string(),
        vcpus: small(shape.vcpus.get()),
        memory_mb: small(shape.memory.get()),
        disk_mb: small(shape.disk.get()),
        created_at_unix_ms: large(manifest.created_ms),
        size_bytes: large(frozen.size_bytes()),
        ..Default::default()
    }
}

/// What the host agent does with many files.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PruneError> + Send + 'static,
) -> Result<T, ConnectError> {
    let done = crate::blocking::run(work).await;
    let done = done.map_err(|_| ConnectError::internal("the host agent broke down while it looked at its disk"))?;
    done.map_err(IntoConnect::into_connect)
}

fn wire_layer(lacking: &LackingLayer) -> WireLayer {
    WireLayer { layer: lacking.layer.to_string(), reason: lacking.reason.clone(), ..Default::default() }
}

fn wire_build(build: &Manifest) -> TemplateBuild {
    TemplateBuild {
        template: build.name.to_string(),
        build: build.build.to_string(),
        created_unix_ms: i64::try_from(build.created_ms).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

fn wire_denials(denials: &Denials) -> NetworkDenials {
    NetworkDenials {
        fenced: denials.fenced,
        denied: denials.denied,
        spoofed: denials.spoofed,
        not_ipv4: denials.not_ipv4,
        connections: denials.connections,
        bandwidth: denials.bandwidth,
        names: denials.names,
        ..Default::default()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn wire_use(one: &DiskUse, is_prunable: bool) -> WireUse {
    WireUse {
        kind: one.kind.to_string(),
        id: one.id.clone(),
        bytes: signed(one.bytes),
        is_prunable,
        ..Default::default()
    }
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
        let builds: Vec<_> = templates.into_iter().filter_map(|listed| Some(listed.template.ok()?.manifest)).collect();
        Response::ok(GetHostResponse {
            instance_id: host.instance.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            accelerator: vmm.accelerator.to_string(),
            vmm_version: vmm.version,
            templates: builds.iter().map(|build| build.name.to_string()).collect(),
            template_builds: builds.iter().map(wire_build).collect(),
            lacking_layers: host.lacking_layers.iter().map(wire_layer).collect(),
            building_templates: host.templates.announced().iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }

    async fn get_sandbox_network(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetSandboxNetworkRequest>,
    ) -> ServiceResult<GetSandboxNetworkResponse> {
        let id = parse_id(request.sandbox_id)?;
        let state = self.agent.sandboxes.network(&id).await.map_err(IntoConnect::into_connect)?;
        Response::ok(GetSandboxNetworkResponse {
            policy: wire_policy(&state.policy).into(),
            policy_changes: state.policy_changes,
            denials: wire_denials(&state.denials).into(),
            ..Default::default()
        })
    }

    async fn set_sandbox_network(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SetSandboxNetworkRequest>,
    ) -> ServiceResult<SetSandboxNetworkResponse> {
        let request = request.to_owned_message();
        let id = parse_id(&request.sandbox_id)?;
        let policy = policy_of(request.policy.into_option().unwrap_or_default())?;
        self.agent.sandboxes.set_network(&id, policy).await.map_err(IntoConnect::into_connect)?;
        Response::ok(SetSandboxNetworkResponse::default())
    }

    async fn stop_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, StopSandboxRequest>,
    ) -> ServiceResult<StopSandboxResponse> {
        let (id, generation) = (parse_id(request.sandbox_id)?, Generation::new(request.generation));
        self.agent.sandboxes.stop(&id, generation).await.map_err(IntoConnect::into_connect)?;
        Response::ok(StopSandboxResponse::default())
    }

    async fn benchmark_spawn(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, BenchmarkSpawnRequest>,
    ) -> ServiceResult<BenchmarkSpawnResponse> {
        let id = parse_id(request.sandbox_id)?;
        let count = match request.count {
            0 => DEFAULT_RUNS,
            count @ 1..=1000 => count,
            _ => return Err(ConnectError::invalid_argument("count must be at most 1000")),
        };
        let using = self.agent.sandboxes.use_guest(&id).await.map_err(IntoConnect::into_connect)?;
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
        request: ServiceRequest<'_, CreateSnapshotRequest>,
    ) -> ServiceResult<CreateSnapshotResponse> {
        let sandbox = parse_id(request.sandbox_id)?;
        let extent = if request.disk_only { Extent::Disk } else { Extent::Full };
        let captured = self.agent.sandboxes.capture(&sandbox, parse_snapshot_id(request.snapshot_id)?, extent).await;
        let (id, frozen) = captured.map_err(IntoConnect::into_connect)?;
        Response::ok(CreateSnapshotResponse { snapshot: wire_snapshot(&id, &frozen).into(), ..Default::default() })
    }

    async fn delete_snapshot(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, DeleteSnapshotRequest>,
    ) -> ServiceResult<DeleteSnapshotResponse> {
        let id = parse_snapshot_id(request.snapshot_id)?;
        self.agent.host.snapshots.delete(&id).await.map_err(IntoConnect::into_connect)?;
        Response::ok(DeleteSnapshotResponse::default())
    }

    async fn list_snapshots(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListSnapshotsRequest>,
    ) -> ServiceResult<ListSnapshotsResponse> {
        let list = self.agent.host.snapshots.list().map_err(IntoConnect::into_connect)?;
        let snapshots = list.iter().map(|(id, frozen)| wire_snapshot(id, frozen)).collect();
        Response::ok(ListSnapshotsResponse { snapshots, ..Default::default() })
    }

    async fn get_footprint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetFootprintRequest>,
    ) -> ServiceResult<GetFootprintResponse> {
        let id = parse_id(request.sandbox_id)?;
        let footprint = self.agent.sandboxes.footprint(&id).map_err(IntoConnect::into_connect)?;
        let microseconds = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Response::ok(GetFootprintResponse {
            pss_bytes: footprint.pss_bytes,
            cpu_us: microseconds(footprint.cpu),
            monitor_start_us: microseconds(footprint.monitor_start),
            start: footprint.start.as_str().to_owned(),
            jail_us: microseconds(footprint.confinement.jail),
            fence_us: microseconds(footprint.confinement.fence),
            ..Default::default()
        })
    }

    async fn get_disk_usage(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, GetDiskUsageRequest>,
    ) -> ServiceResult<GetDiskUsageResponse> {
        let host = self.agent.host.clone();
        let look = move || Ok((disk::room(&host.data_dir).map_err(PruneError::Look)?, disk::look(&host)?));
        let (room, uses) = blocking(look).await?;
        Response::ok(GetDiskUsageResponse {
            total_bytes: signed(room.total),
            free_bytes: signed(room.free),
            reserve_bytes: signed(self.agent.host.disk_reserve_mb << 20),
            uses: uses.iter().map(|(one, is_prunable)| wire_use(one, *is_prunable)).collect(),
            ..Default::default()
        })
    }

    async fn prune(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, PruneRequest>,
    ) -> ServiceResult<PruneResponse> {
        let host = self.agent.host.clone();
        let work = if request.dry_run { disk::plan } else { disk::prune };
        let removed = blocking(move || work(&host)).await?;
        let removed = removed.iter().map(|one| wire_use(one, true)).collect();
        Response::ok(PruneResponse { removed, ..Default::default() })
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
