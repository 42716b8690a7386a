//! A host agent's port without machines: the real RPC services and guest streams, answered from a script.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use bytes::Bytes;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail, RequestContext, Response, ServiceRequest, ServiceResult};
use proto::hostagent::v1 as pb;
use proto::hostagent::v1::{HostAgentService, HostAgentServiceExt, HostService, HostServiceExt};
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore, watch};

/// What the test decides and what the fake has seen.
#[derive(Default)]
pub struct State {
    /// Id to status.
    pub sandboxes: BTreeMap<String, String>,
    /// Id to what expiry does.
    pub on_expiry: HashMap<String, &'static str>,
    /// Id of a snapshot to that of what was captured.
    pub snapshots: BTreeMap<String, String>,
    /// Id to the snapshot that a sandbox came from, or nothing.
    pub came_from: HashMap<String, String>,
    /// Id to what a sandbox may reach, and how often that was replaced.
    pub networks: HashMap<String, (pb::NetworkPolicy, u64)>,
    /// Every call, as `method id`.
    pub calls: Vec<String>,
    /// Complete files by path.
    pub files: HashMap<String, Bytes>,
    /// Paths of uploads that broke off.
    pub broken_uploads: Vec<String>,
    /// Collected commands that nobody waits for any more.
    pub taken_back: usize,
    /// Pids that were killed.
    pub killed: Vec<u32>,
    /// Pids that were asked to end.
    pub terminated: Vec<u32>,
    /// What was typed into terminals.
    pub typed: Vec<u8>,
    /// Downloads of the endless file that came to an end all the same.
    pub downloads_ended: usize,
    /// Chunks of the endless output that somebody took.
    pub flooded: usize,
    /// How often its template was built again.
    pub rebuilt: u32,
    /// Templates that are being built.
    pub building: Vec<String>,
    /// What listens in every guest, by port.
    pub ports: HashMap<u16, std::net::SocketAddr>,
    /// Connections to ports of guests that are open.
    pub joined: usize,
    failures: HashMap<&'static str, ConnectError>,
    gates: HashMap<&'static str, Arc<Semaphore>>,
}

#[derive(Default)]
pub struct FakeHost {
    state: Mutex<State>,
    pub changed: Notify,
    /// What watchers are told by.
    news: watch::Sender<()>,
}

impl FakeHost {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    /// Tells those who watch that something changed.
    pub fn tell(&self) {
        self.news.send_replace(());
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> usize {
        self.state().calls.iter().filter(|call| call.split(' ').next() == Some(method)).count()
    }

    /// The next call of `method` fails.
    pub fn fail(&self, method: &'static str, code: ErrorCode, message: &str) {
        self.update(|state| state.failures.insert(method, ConnectError::new(code, message)));
    }

    /// Calls of `method` wait until the gate is opened by adding permits.
    pub fn hold(&self, method: &'static str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.update(|state| state.gates.insert(method, gate.clone()));
        gate
    }

    /// Waits until the fake has seen what the test waits for.
    pub async fn until(&self, condition: impl Fn(&State) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.state()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("the condition is met in time");
    }

    /// Counts the call, then waits at its gate and fails if the script says so.
    pub async fn enter(&self, method: &'static str, id: &str) -> Result<(), ConnectError> {
        let (gate, failure) = self.update(|state| {
            state.calls.push(format!("{method} {id}"));
            (state.gates.get(method).cloned(), state.failures.remove(method))
        });
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        failure.map_or(Ok(()), Err)
    }

    fn status(&self, id: &str) -> Option<String> {
        self.state().sandboxes.get(id).cloned()
    }

    fn set(&self, id: &str, from: &str, to: &str) -> Result<(), ConnectError> {
        self.update(|state| match state.sandboxes.get_mut(id) {
            None => Err(ConnectError::not_found(format!("sandbox not found: {id}"))),
            Some(status) if status == from => {
                *status = to.to_owned();
                Ok(())
            }
            Some(status) => Err(ConnectError::failed_precondition(format!("sandbox is {status}"))),
        })
    }

    /// Serves the whole port on a unix socket until the returned task is dropped.
    pub fn serve(self: &Arc<Self>, path: &Path) -> tokio_util::task::AbortOnDropHandle<()> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let router = self.router();
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        }))
    }

    /// The whole port.
    pub fn router(self: &Arc<Self>) -> Router {
        let rpc = HostAgentServiceExt::register(self.clone(), connectrpc::Router::new());
        let rpc = HostServiceExt::register(self.clone(), rpc);
        let guests = crate::fake_guest::routes(self.clone()).merge(crate::fake_ports::routes(self.clone()));
        guests.fallback_service(rpc.into_axum_service())
    }
}

/// What every snapshot takes on the disk of this host.
pub const SNAPSHOT_BYTES: i64 = 5000;

fn snapshot_info(id: &str, sandbox: &str) -> pb::SnapshotInfo {
    pb::SnapshotInfo {
        snapshot_id: id.to_owned(),
        sandbox_id: sandbox.to_owned(),
        size_bytes: SNAPSHOT_BYTES,
        ..Default::default()
    }
}

fn disk_use(kind: &str, id: &str, bytes: i64) -> pb::DiskUse {
    pb::DiskUse { kind: kind.to_owned(), id: id.to_owned(), bytes, ..Default::default() }
}

fn shared() -> [pb::DiskUse; 3] {
    let bake = pb::DiskUse { is_prunable: true, ..disk_use("bake", "minimal-1-512", 3000) };
    [disk_use("template", "minimal", 9000), bake, disk_use("monitor", "abc", 500)]
}

impl HostService for FakeHost {
    async fn get_host(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::GetHostRequest>,
    ) -> ServiceResult<pb::GetHostResponse> {
        self.enter("describe", "").await?;
        Response::ok(pb::GetHostResponse {
            instance_id: "abc123".into(),
            version: "0.1.0".into(),
            accelerator: "tcg".into(),
            vmm_version: "10.0.2".into(),
            lacking_layers: vec![pb::LackingLayer { layer: "landlock".into(), ..Default::default() }],
            templates: vec!["minimal".into()],
            template_builds: vec![pb::TemplateBuild {
                template: "minimal".into(),
                build: format!("b{}", self.state().rebuilt),
                created_unix_ms: 1_700_000_000_000,
                ..Default::default()
            }],
            building_templates: self.state().building.clone(),
            ..Default::default()
        })
    }

    async fn get_sandbox_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::GetSandboxNetworkRequest>,
    ) -> ServiceResult<pb::GetSandboxNetworkResponse> {
        self.enter("network", request.sandbox_id).await?;
        let (policy, policy_changes) = self.state().networks.get(request.sandbox_id).cloned().unwrap_or_default();
        let denials = pb::NetworkDenials { fenced: 3, ..Default::default() }.into();
        Response::ok(pb::GetSandboxNetworkResponse {
            policy: policy.into(),
            policy_changes,
            denials,
            ..Default::default()
        })
    }

    async fn set_sandbox_network(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::SetSandboxNetworkRequest>,
    ) -> ServiceResult<pb::SetSandboxNetworkResponse> {
        self.enter("set-network", request.sandbox_id).await?;
        let request = request.to_owned_message();
        self.update(|state| {
            let (policy, changes) = state.networks.entry(request.sandbox_id).or_default();
            *policy = request.policy.into_option().unwrap_or_default();
            *changes += 1;
        });
        Response::ok(pb::SetSandboxNetworkResponse::default())
    }

    async fn benchmark_spawn(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::BenchmarkSpawnRequest>,
    ) -> ServiceResult<pb::BenchmarkSpawnResponse> {
        self.enter("benchmark", request.sandbox_id).await?;
        let count = if request.count == 0 { 20 } else { request.count };
        Response::ok(pb::BenchmarkSpawnResponse { count, median_us: 900, min_us: 800, ..Default::default() })
    }

    async fn get_footprint(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::GetFootprintRequest>,
    ) -> ServiceResult<pb::GetFootprintResponse> {
        self.enter("footprint", request.sandbox_id).await?;
        Response::ok(pb::GetFootprintResponse {
            pss_bytes: 50_000_000,
            cpu_us: 2_000_000,
            monitor_start_us: 30_000,
            start: "restore".into(),
            ..Default::default()
        })
    }

    async fn stop_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::StopSandboxRequest>,
    ) -> ServiceResult<pb::StopSandboxResponse> {
        let id = request.sandbox_id;
        self.enter("stop", id).await?;
        let from = if self.status(id).as_deref() == Some("paused") { "paused" } else { "running" };
        self.set(id, from, "stopped")?;
        Response::ok(Default::default())
    }

    async fn create_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::CreateSnapshotRequest>,
    ) -> ServiceResult<pb::CreateSnapshotResponse> {
        let request = request.to_owned_message();
        self.enter("snapshot", &request.sandbox_id).await?;
        let (sandbox_id, snapshot_id) = (request.sandbox_id, request.snapshot_id);
        match self.status(&sandbox_id).as_deref() {
            None => return Err(ConnectError::not_found(format!("sandbox not found: {sandbox_id}"))),
            Some("running" | "paused") => {}
            Some(other) => return Err(ConnectError::failed_precondition(format!("sandbox is {other}"))),
        }
        self.update(|state| state.snapshots.insert(snapshot_id.clone(), sandbox_id.clone()));
        let snapshot = snapshot_info(&snapshot_id, &sandbox_id);
        Response::ok(pb::CreateSnapshotResponse { snapshot: snapshot.into(), ..Default::default() })
    }

    async fn delete_snapshot(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::DeleteSnapshotRequest>,
    ) -> ServiceResult<pb::DeleteSnapshotResponse> {
        let id = request.snapshot_id;
        self.enter("delete_snapshot", id).await?;
        match self.update(|state| state.snapshots.remove(id)) {
            Some(_) => Response::ok(Default::default()),
            None => Err(ConnectError::not_found(format!("snapshot not found: {id}"))),
        }
    }

    async fn list_snapshots(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::ListSnapshotsRequest>,
    ) -> ServiceResult<pb::ListSnapshotsResponse> {
        self.enter("list_snapshots", "").await?;
        let snapshots = self.state().snapshots.iter().map(|(id, sandbox)| snapshot_info(id, sandbox)).collect();
        Response::ok(pb::ListSnapshotsResponse { snapshots, ..Default::default() })
    }

    async fn get_disk_usage(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::GetDiskUsageRequest>,
    ) -> ServiceResult<pb::GetDiskUsageResponse> {
        self.enter("disk", "").await?;
        let uses = {
            let state = self.state();
            let sandboxes = state.sandboxes.keys().map(|id| disk_use("sandbox", id, 100));
            let snapshots = state.snapshots.keys().map(|id| disk_use("snapshot", id, SNAPSHOT_BYTES));
            sandboxes.chain(snapshots).chain(shared()).chain([disk_use("pool", "hidden", 7)]).collect()
        };
        Response::ok(pb::GetDiskUsageResponse {
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            reserve_bytes: 1 << 30,
            uses,
            ..Default::default()
        })
    }

    async fn prune(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::PruneRequest>,
    ) -> ServiceResult<pb::PruneResponse> {
        self.enter("prune", if request.dry_run { "dry" } else { "" }).await?;
        let removed = shared().into_iter().filter(|shared| shared.is_prunable).collect();
        Response::ok(pb::PruneResponse { removed, ..Default::default() })
    }

    async fn watch_sandboxes(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::WatchSandboxesRequest>,
    ) -> ServiceResult<connectrpc::ServiceStream<pb::WatchSandboxesResponse>> {
        self.enter("watch", "").await?;
        let mut news = self.news.subscribe();
        news.mark_changed();
        Response::stream_ok(futures::stream::unfold(news, async |mut news| {
            news.changed().await.ok()?;
            Some((Ok(pb::WatchSandboxesResponse::default()), news))
        }))
    }
}

/// A command that nobody waits for any more when this is dropped.
struct TakenBack<'a>(&'a FakeHost);

impl Drop for TakenBack<'_> {
    fn drop(&mut self) {
        self.0.update(|state| state.taken_back += 1);
    }
}

impl HostAgentService for FakeHost {
    async fn create_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::CreateSandboxRequest>,
    ) -> ServiceResult<pb::CreateSandboxResponse> {
        let request = request.to_owned_message();
        let id = request.sandbox_id;
        if !["minimal", "minimal-ubuntu"].contains(&request.template.as_str()) {
            return Err(ConnectError::not_found(format!("template {:?} is not built here", request.template)));
        }
        self.enter("create", &id).await?;
        if self.state().building.contains(&request.template) {
            let detail = pb::TemplateBuilding { template: request.template, ..Default::default() };
            let error = ConnectError::unavailable("the template is being built");
            return Err(error.with_detail(ErrorDetail::from_message("hostagent.v1.TemplateBuilding", &detail)));
        }
        let (snapshot, network) = (request.snapshot_id, request.network.into_option().unwrap_or_default());
        if !snapshot.is_empty() && !self.state().snapshots.contains_key(&snapshot) {
            return Err(ConnectError::not_found(format!("snapshot not found: {snapshot}")));
        }
        let on_expiry = ["destroy", "pause", "stop"][usize::try_from(request.on_expiry.to_i32()).unwrap_or_default()];
        self.update(|state| {
            state.on_expiry.insert(id.clone(), on_expiry);
            state.came_from.insert(id.clone(), snapshot);
            state.networks.insert(id.clone(), (network, 0));
            state.sandboxes.insert(id.clone(), "running".into());
        });
        Response::ok(pb::CreateSandboxResponse {
            sandbox_id: id,
            status: "running".into(),
            host_ip: "10.11.0.1".into(),
            ..Default::default()
        })
    }

    async fn destroy_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::DestroySandboxRequest>,
    ) -> ServiceResult<pb::DestroySandboxResponse> {
        let id = request.sandbox_id;
        self.enter("destroy", id).await?;
        match self.update(|state| state.sandboxes.remove(id)) {
            Some(_) => Response::ok(Default::default()),
            None => Err(ConnectError::not_found(format!("sandbox not found: {id}"))),
        }
    }

    async fn pause_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::PauseSandboxRequest>,
    ) -> ServiceResult<pb::PauseSandboxResponse> {
        self.enter("pause", request.sandbox_id).await?;
        self.set(request.sandbox_id, "running", "paused")?;
        Response::ok(Default::default())
    }

    async fn resume_sandbox(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::ResumeSandboxRequest>,
    ) -> ServiceResult<pb::ResumeSandboxResponse> {
        let id = request.sandbox_id;
        self.enter(if request.from_disk { "start" } else { "resume" }, id).await?;
        let from = if self.status(id).as_deref() == Some("stopped") { "stopped" } else { "paused" };
        self.set(id, from, "running")?;
        Response::ok(Default::default())
    }

    async fn exec(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::ExecRequest>,
    ) -> ServiceResult<pb::ExecResponse> {
        let request = request.to_owned_message();
        self.enter("exec", &request.sandbox_id).await?;
        self.update(|state| state.calls.push(format!("run {}", request.cmd)));
        if request.cwd == "/missing" {
            return Err(ConnectError::invalid_argument("/missing: no such directory"));
        }
        let answer = pb::ExecResponse::default();
        Response::ok(match request.cmd.as_str() {
            "about" => {
                let mut envs: Vec<_> = request.envs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                envs.sort();
                pb::ExecResponse {
                    stdout: format!("{} {} {}", request.user, request.cwd, envs.join(" ")).into(),
                    ..answer
                }
            }
            "sleep" => {
                let _killed = TakenBack(self);
                std::future::pending().await
            }
            "crash" => pb::ExecResponse { exit_code: 139, signal: 11, ..answer },
            "vanish" => return Err(ConnectError::new(ErrorCode::Unknown, "the end of the command is unknown")),
            "echo" => pb::ExecResponse { stdout: format!("{}\n", request.args.join(" ")).into(), ..answer },
            "binary" => pb::ExecResponse { stdout: b"a\xff".into(), stderr: b"text".into(), ..answer },
            "false" => pb::ExecResponse { exit_code: 1, ..answer },
            "much" => pb::ExecResponse { stdout: "gr\u{fc}".as_bytes()[..3].into(), stdout_omitted: 7, ..answer },
            "slow" if request.partial_on_timeout => {
                pb::ExecResponse { stdout: "so f\u{e4}r".as_bytes()[..5].into(), timed_out: true, ..answer }
            }
            "large" => pb::ExecResponse { stdout: vec![b'x'; 32 << 20], ..answer },
            "limit" => pb::ExecResponse { stdout: request.timeout_sec.to_string().into(), ..answer },
            other => pb::ExecResponse { stderr: format!("{other}: not found").into(), exit_code: 127, ..answer },
        })
    }

    async fn list_sandboxes(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::ListSandboxesRequest>,
    ) -> ServiceResult<pb::ListSandboxesResponse> {
        let wanted = request.sandbox_id;
        self.enter("list", wanted).await?;
        let info = |(id, status): (&String, &String)| pb::SandboxInfo {
            sandbox_id: id.clone(),
            status: status.clone(),
            host_ip: "10.11.0.9".into(),
            disk_bytes: (5 << 20) + 1,
            ..Default::default()
        };
        let is_wanted = |(id, _): &(&String, &String)| wanted.is_empty() || *id == wanted;
        let sandboxes = self.state().sandboxes.iter().filter(is_wanted).map(info).collect();
        Response::ok(pb::ListSandboxesResponse { sandboxes, ..Default::default() })
    }

    async fn write_file(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::WriteFileRequest>,
    ) -> ServiceResult<pb::WriteFileResponse> {
        Err(ConnectError::unimplemented("files are streamed"))
    }

    async fn get_sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::GetSandboxMetricsRequest>,
    ) -> ServiceResult<pb::GetSandboxMetricsResponse> {
        self.enter("metrics", request.sandbox_id).await?;
        // One point of two and a half hours ago, and one of now; which series it is, is in its memory.
        let now = jiff::Timestamp::now().as_second();
        let mem_bytes = match request.range {
            "10m" => 10,
            "2h" => 120,
            "24h" => 1440,
            other => return Err(ConnectError::invalid_argument(other)),
        };
        let point = |timestamp_unix| pb::MetricPoint {
            timestamp_unix,
            cpu_pct: 12.5,
            mem_bytes,
            disk_bytes: 9,
            ..Default::default()
        };
        let points = vec![point(now - 9000), point(now)];
        Response::ok(pb::GetSandboxMetricsResponse { points, ..Default::default() })
    }

    async fn flush_sandbox_metrics(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::FlushSandboxMetricsRequest>,
    ) -> ServiceResult<pb::FlushSandboxMetricsResponse> {
        self.enter("flush", request.sandbox_id).await?;
        let now = jiff::Timestamp::now().as_second();
        let point = |mem_bytes| pb::MetricPoint {
            timestamp_unix: now - 1,
            cpu_pct: 50.0,
            mem_bytes,
            disk_bytes: 9,
            ..Default::default()
        };
        Response::ok(pb::FlushSandboxMetricsResponse {
            points_10m: vec![point(11)],
            points_2h: vec![point(121)],
            points_24h: vec![point(1441)],
            ..Default::default()
        })
    }

    async fn read_file(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::ReadFileRequest>,
    ) -> ServiceResult<pb::ReadFileResponse> {
        Err(ConnectError::unimplemented("files are streamed"))
    }
}
