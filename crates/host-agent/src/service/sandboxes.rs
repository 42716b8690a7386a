//! The seed's service: its eight RPCs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};
use model::{
    Extent, Generation, Lifetime, OnExpiry, SandboxId, Shape, ShapeRequest, SnapshotId, StartMode, TemplateName,
};
use proto::hostagent::v1::{
    CreateSandboxRequest, CreateSandboxResponse, DestroySandboxRequest, DestroySandboxResponse, ExecRequest,
    ExecResponse, FlushSandboxMetricsRequest, FlushSandboxMetricsResponse, GetSandboxMetricsRequest,
    GetSandboxMetricsResponse, HostAgentService, ListSandboxesRequest, ListSandboxesResponse, MetricPoint,
    OnExpiry as WireOnExpiry, PauseSandboxRequest, PauseSandboxResponse, ReadFileRequest, ReadFileResponse,
    ResumeSandboxRequest, ResumeSandboxResponse, SandboxInfo as WireInfo, WriteFileRequest, WriteFileResponse,
};

use super::error::IntoConnect;
use super::policy::policy_of;
use crate::HostAgent;
use crate::guest::{self, ExecError};
use crate::sandbox::metrics::{InvalidRange, Point};
use crate::sandbox::{GuestUse, SandboxInfo, SandboxSpec};

/// What a command gets that names no timeout.
const DEFAULT_EXEC_TIMEOUT: Duration = Duration::from_secs(30);

/// The template of those who name none.
const DEFAULT_TEMPLATE: &str = "minimal";

/// How often a command is given to a guest that stands still. It does so once for each capture.
const EXEC_ATTEMPTS: u32 = 4;

pub(super) struct SandboxService {
    agent: Arc<HostAgent>,
}

impl SandboxService {
    pub fn new(agent: Arc<HostAgent>) -> Self {
        Self { agent }
    }

    async fn use_guest(&self, sandbox_id: &str) -> Result<GuestUse, ConnectError> {
        let id = parse_id(sandbox_id)?;
        self.agent.sandboxes.use_guest(&id).await.map_err(IntoConnect::into_connect)
    }

    /// A command that comes to the guest just as it is stopped for a capture waits like one that comes a moment later.
    async fn exec_when_it_goes_on(
        &self,
        sandbox_id: &str,
        command: guest::ExecRequest,
    ) -> Result<guest::ExecOutput, ConnectError> {
        for _ in 1..EXEC_ATTEMPTS {
            let using = self.use_guest(sandbox_id).await?;
            match using.guest.exec(command.clone()).await {
                Err(ExecError::Early) => {}
                done => return done.map_err(IntoConnect::into_connect),
            }
        }
        let using = self.use_guest(sandbox_id).await?;
        using.guest.exec(command).await.map_err(IntoConnect::into_connect)
    }

    /// Template and shape of a sandbox that is to come from a snapshot.
    fn made_of(&self, sandbox: &SandboxId, snapshot: &SnapshotId) -> Result<(TemplateName, Shape), ConnectError> {
        // A repeated request means the sandbox that there is, also where its snapshot was deleted.
        let existing = self.agent.sandboxes.spec(sandbox).filter(|spec| spec.snapshot.as_ref() == Some(snapshot));
        if let Some(spec) = existing {
            return Ok((spec.template, spec.shape));
        }
        let frozen = self.agent.host.snapshots.get(snapshot).map_err(IntoConnect::into_connect)?;
        Ok((frozen.manifest.origin.template, frozen.manifest.origin.shape))
    }
}

pub(super) fn parse_id(text: &str) -> Result<SandboxId, ConnectError> {
    text.parse().map_err(|error: model::InvalidId| error.into_connect())
}

/// What is asked for, `made_of` saying what a sandbox is made of that comes from a snapshot.
fn spec_of(
    request: CreateSandboxRequest,
    made_of: impl FnOnce(&SandboxId, &SnapshotId) -> Result<(TemplateName, Shape), ConnectError>,
) -> Result<SandboxSpec, ConnectError> {
    let id = if request.sandbox_id.is_empty() { SandboxId::random() } else { parse_id(&request.sandbox_id)? };
    let invalid = |error: model::InvalidId| error.into_connect();
    let snapshot = Some(&request.snapshot_id).filter(|text| !text.is_empty());
    let snapshot: Option<SnapshotId> = snapshot.map(|text| text.parse().map_err(invalid)).transpose()?;
    let (template, shape) = match &snapshot {
        Some(snapshot) => {
            let (template, shape) = made_of(&id, snapshot)?;
            check_wishes(&request, &template, &shape)?;
            (template, shape)
        }
        None => (template_of(&request)?, shape_of(&request)?),
    };
    let seconds = u32::try_from(request.timeout_sec);
    let seconds = seconds.map_err(|_| ConnectError::invalid_argument("timeout_sec must not be negative"))?;
    let on_expiry = match request.on_expiry.to_i32() {
        0 => OnExpiry::Destroy,
        1 => OnExpiry::Pause,
        2 => OnExpiry::Stop,
        other => return Err(ConnectError::invalid_argument(format!("on_expiry {other} is not known"))),
    };
    let owner = request.owner_id.parse().map_err(invalid)?;
    let start = match request.start.to_i32() {
        0 => StartMode::Auto,
        1 => StartMode::Boot,
        2 => StartMode::Restore,
        other => return Err(ConnectError::invalid_argument(format!("start {other} is not known"))),
    };
    if start == StartMode::Boot && snapshot.is_some() {
        return Err(ConnectError::invalid_argument("a sandbox from a snapshot cannot be booted"));
    }
    let lifetime = Lifetime::from_idle_seconds(seconds);
    let network = policy_of(request.network.into_option().unwrap_or_default())?;
    let env = env_of(request.env)?;
    Ok(SandboxSpec { id, template, shape, lifetime, on_expiry, owner, snapshot, start, network, env })
}

/// What a process can have in its environment.
fn env_of(wire: impl IntoIterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, ConnectError> {
    let env: BTreeMap<_, _> = wire.into_iter().collect();
    let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    match env.iter().find(|(name, value)| !is_name(name) || value.contains('\0')) {
        Some((name, _)) => Err(ConnectError::invalid_argument(format!("env {name:?} is not valid"))),
        None => Ok(env),
    }
}

fn template_of(request: &CreateSandboxRequest) -> Result<TemplateName, ConnectError> {
    let template = if request.template.is_empty() { DEFAULT_TEMPLATE } else { &request.template };
    template.parse().map_err(|error: model::InvalidTemplateName| error.into_connect())
}

fn shape_of(request: &CreateSandboxRequest) -> Result<Shape, ConnectError> {
    let shape = ShapeRequest {
        vcpus: request.vcpus.into(),
        memory_mb: request.memory_mb.into(),
        disk_mb: request.disk_mb.into(),
    };
    shape.try_into().map_err(|error: model::InvalidShape| error.into_connect())
}

/// What is asked for beside a snapshot must be what the snapshot has.
fn check_wishes(request: &CreateSandboxRequest, template: &TemplateName, shape: &Shape) -> Result<(), ConnectError> {
    let differs = |what: &str, has: String| {
        ConnectError::invalid_argument(format!("{what} of a sandbox from a snapshot is the snapshot's: {has}"))
    };
    if !request.template.is_empty() && request.template != template.as_str() {
        return Err(differs("template", template.to_string()));
    }
    let numbers = [
        ("vcpus", request.vcpus, shape.vcpus.get()),
        ("memory_mb", request.memory_mb, shape.memory.get()),
        ("disk_mb", request.disk_mb, shape.disk.get()),
    ];
    match numbers.into_iter().find(|(_, wished, has)| *wished != 0 && i64::from(*wished) != i64::from(*has)) {
        Some((what, _, has)) => Err(differs(what, has.to_string())),
        None => Ok(()),
    }
}

/// Absent or 0 means the default; -1 means none.
fn exec_timeout(seconds: i32) -> Result<Option<Duration>, ConnectError> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(Some(DEFAULT_EXEC_TIMEOUT)),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) if seconds == -1 => Ok(None),
        Err(_) => {
            Err(ConnectError::invalid_argument("timeout_sec must be positive, 0 for the default, or -1 for none"))
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().try_into().unwrap_or(i64::MAX))
}

fn wire_info(info: &SandboxInfo) -> WireInfo {
    let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    WireInfo {
        sandbox_id: info.spec.id.to_string(),
        status: info.status.to_string(),
        template: info.spec.template.to_string(),
        vcpus: signed(info.spec.shape.vcpus.get()),
        memory_mb: signed(info.spec.shape.memory.get()),
        host_ip: info.host_ip.map(|address| address.to_string()).unwrap_or_default(),
        created_at_unix: unix_seconds(info.created_at),
        last_active_at_unix: unix_seconds(info.last_active_at),
        timeout_sec: signed(info.spec.lifetime.idle_seconds()),
        on_expiry: match info.spec.on_expiry {
            OnExpiry::Destroy => WireOnExpiry::ON_EXPIRY_DESTROY.into(),
            OnExpiry::Pause => WireOnExpiry::ON_EXPIRY_PAUSE.into(),
            OnExpiry::Stop => WireOnExpiry::ON_EXPIRY_STOP.into(),
        },
        owner_id: info.spec.owner.to_string(),
        snapshot_id: info.spec.snapshot.as_ref().map(ToString::to_string).unwrap_or_default(),
        disk_mb: signed(info.spec.shape.disk.get()),
        ..Default::default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn wire_points(points: &[Point]) -> Vec<MetricPoint> {
    let wire = |point: &Point| MetricPoint {
        timestamp_unix: point.timestamp,
        cpu_pct: point.cpu_percent,
        mem_bytes: signed(point.memory_bytes),
        disk_bytes: signed(point.disk_bytes),
        ..Default::default()
    };
    points.iter().map(wire).collect()
}

impl HostAgentService for SandboxService {
    async fn create_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CreateSandboxRequest>,
    ) -> ServiceResult<CreateSandboxResponse> {
        let made_of = |sandbox: &SandboxId, snapshot: &SnapshotId| self.made_of(sandbox, snapshot);
        let spec = spec_of(request.to_owned_message(), made_of)?;
        let info = self.agent.sandboxes.create(spec).await.map_err(IntoConnect::into_connect)?;
        let wire = wire_info(&info);
        Response::ok(CreateSandboxResponse {
            sandbox_id: wire.sandbox_id,
            status: wire.status,
            host_ip: wire.host_ip,
            ..Default::default()
        })
    }

    async fn destroy_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, DestroySandboxRequest>,
    ) -> ServiceResult<DestroySandboxResponse> {
        let id = parse_id(request.sandbox_id)?;
        self.agent.sandboxes.destroy(&id).await.map_err(IntoConnect::into_connect)?;
        Response::ok(DestroySandboxResponse::default())
    }

    async fn pause_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, PauseSandboxRequest>,
    ) -> ServiceResult<PauseSandboxResponse> {
        let (id, generation) = (parse_id(request.sandbox_id)?, Generation::new(request.generation));
        self.agent.sandboxes.pause(&id, generation).await.map_err(IntoConnect::into_connect)?;
        Response::ok(PauseSandboxResponse::default())
    }

    async fn resume_sandbox(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ResumeSandboxRequest>,
    ) -> ServiceResult<ResumeSandboxResponse> {
        let (id, generation) = (parse_id(request.sandbox_id)?, Generation::new(request.generation));
        let from = if request.from_disk { Extent::Disk } else { Extent::Full };
        self.agent.sandboxes.resume(&id, generation, from).await.map_err(IntoConnect::into_connect)?;
        Response::ok(ResumeSandboxResponse::default())
    }

    async fn exec(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ExecRequest>,
    ) -> ServiceResult<ExecResponse> {
        let request = request.to_owned_message();
        if request.cmd.is_empty() {
            return Err(ConnectError::invalid_argument("cmd must not be empty"));
        }
        let command = guest::ExecRequest {
            program: request.cmd,
            arguments: request.args,
            envs: request.envs.into_iter().collect(),
            cwd: Some(request.cwd).filter(|cwd| !cwd.is_empty()),
            user: Some(request.user).filter(|user| !user.is_empty()),
            timeout: exec_timeout(request.timeout_sec)?,
        };
        let output = self.exec_when_it_goes_on(&request.sandbox_id, command).await?;
        if output.timed_out && !request.partial_on_timeout {
            return Err(ConnectError::deadline_exceeded("the command did not end in time and was killed"));
        }
        Response::ok(ExecResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
            signal: output.signal.unwrap_or_default(),
            stdout_omitted: output.stdout_omitted,
            stderr_omitted: output.stderr_omitted,
            timed_out: output.timed_out,
            ..Default::default()
        })
    }

    async fn list_sandboxes(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ListSandboxesRequest>,
    ) -> ServiceResult<ListSandboxesResponse> {
        let mut list = self.agent.sandboxes.list();
        if !request.sandbox_id.is_empty() {
            let id = parse_id(request.sandbox_id)?;
            list.retain(|info| info.spec.id == id);
        }
        let mut sandboxes = Vec::with_capacity(list.len());
        for info in &list {
            let disk_bytes = signed(self.agent.sandboxes.disk_bytes(&info.spec.id).await);
            sandboxes.push(WireInfo { disk_bytes, ..wire_info(info) });
        }
        Response::ok(ListSandboxesResponse { sandboxes, ..Default::default() })
    }

    async fn write_file(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, WriteFileRequest>,
    ) -> ServiceResult<WriteFileResponse> {
        let request = request.to_owned_message();
        let using = self.use_guest(&request.sandbox_id).await?;
        let written = using.guest.write_file(&request.path, Bytes::from(request.content)).await;
        written.map_err(IntoConnect::into_connect)?;
        Response::ok(WriteFileResponse::default())
    }

    async fn read_file(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ReadFileRequest>,
    ) -> ServiceResult<ReadFileResponse> {
        let using = self.use_guest(request.sandbox_id).await?;
        let content = using.guest.read_file(request.path).await.map_err(IntoConnect::into_connect)?;
        Response::ok(ReadFileResponse { content: content.into(), ..Default::default() })
    }

    async fn get_sandbox_metrics(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, GetSandboxMetricsRequest>,
    ) -> ServiceResult<GetSandboxMetricsResponse> {
        let range = request.range.parse().map_err(|error: InvalidRange| error.into_connect())?;
        let metrics = self.agent.sandboxes.metrics(&parse_id(request.sandbox_id)?);
        let points = metrics.map_err(IntoConnect::into_connect)?.points(range);
        Response::ok(GetSandboxMetricsResponse { points: wire_points(&points), ..Default::default() })
    }

    async fn flush_sandbox_metrics(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, FlushSandboxMetricsRequest>,
    ) -> ServiceResult<FlushSandboxMetricsResponse> {
        let metrics = self.agent.sandboxes.metrics(&parse_id(request.sandbox_id)?);
        let flushed = metrics.map_err(IntoConnect::into_connect)?.flush();
        Response::ok(FlushSandboxMetricsResponse {
            points_10m: wire_points(&flushed.ten_minutes),
            points_2h: wire_points(&flushed.two_hours),
            points_24h: wire_points(&flushed.day),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a snapshot of a small sandbox.
    fn made_of(_: &SandboxId, _: &SnapshotId) -> Result<(TemplateName, Shape), ConnectError> {
        let shape = ShapeRequest { vcpus: 2, memory_mb: 256, disk_mb: 0 };
        Ok(("python311".parse().unwrap(), shape.try_into().unwrap()))
    }

    #[test]
    fn a_sandbox_from_a_snapshot_is_made_of_what_that_is_made_of() {
        let request = CreateSandboxRequest { snapshot_id: "sn1".into(), owner_id: "me".into(), ..Default::default() };
        let spec = spec_of(request.clone(), made_of).unwrap();
        assert_eq!((spec.template.as_str(), spec.shape.vcpus.get(), spec.shape.memory.get()), ("python311", 2, 256));
        assert_eq!((spec.snapshot.unwrap().as_str(), spec.owner.as_str()), ("sn1", "me"));
        let same =
            CreateSandboxRequest { template: "python311".into(), vcpus: 2, memory_mb: 256, disk_mb: 5120, ..request };
        assert!(spec_of(same.clone(), made_of).is_ok());
        for (other, word) in [
            (CreateSandboxRequest { template: "minimal".into(), ..same.clone() }, "template"),
            (CreateSandboxRequest { vcpus: 1, ..same.clone() }, "vcpus"),
            (CreateSandboxRequest { memory_mb: 512, ..same.clone() }, "memory_mb"),
            (CreateSandboxRequest { disk_mb: 1024, ..same.clone() }, "disk_mb"),
            (CreateSandboxRequest { snapshot_id: "a/b".into(), ..same.clone() }, "snapshot id"),
        ] {
            let error = spec_of(other, made_of).unwrap_err();
            assert_eq!(error.code, connectrpc::ErrorCode::InvalidArgument);
            assert!(error.message.as_deref().unwrap().contains(word), "{:?}", error.message);
        }
    }

    #[test]
    fn an_empty_request_is_the_default_sandbox() {
        let spec = spec_of(CreateSandboxRequest::default(), made_of).unwrap();
        assert_eq!(spec.template.as_str(), "minimal");
        assert_eq!((spec.shape.vcpus.get(), spec.shape.memory.get()), (1, 512));
        assert_eq!(spec.lifetime, Lifetime::Never);
        assert!(spec.id.as_str().starts_with("sb"));
    }

    #[test]
    fn bad_requests_are_invalid_arguments() {
        let check = |request: CreateSandboxRequest, word: &str| {
            let error = spec_of(request, made_of).unwrap_err();
            assert_eq!(error.code, connectrpc::ErrorCode::InvalidArgument);
            assert!(error.message.as_deref().unwrap().contains(word), "{:?}", error.message);
        };
        check(CreateSandboxRequest { vcpus: -1, ..Default::default() }, "vcpus");
        check(CreateSandboxRequest { memory_mb: 1, ..Default::default() }, "memory_mb");
        check(CreateSandboxRequest { disk_mb: 1, ..Default::default() }, "disk_mb");
        check(CreateSandboxRequest { timeout_sec: -5, ..Default::default() }, "timeout_sec");
        check(CreateSandboxRequest { template: "../x".into(), ..Default::default() }, "template name");
        check(CreateSandboxRequest { sandbox_id: "a/b".into(), ..Default::default() }, "sandbox id");
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "\0")] {
            let env = [(name.to_owned(), value.to_owned())].into_iter().collect();
            check(CreateSandboxRequest { env, ..Default::default() }, "env");
        }
    }

    #[test]
    fn exec_timeouts_have_a_default_and_a_none() {
        assert_eq!(exec_timeout(0).unwrap(), Some(DEFAULT_EXEC_TIMEOUT));
        assert_eq!(exec_timeout(7).unwrap(), Some(Duration::from_secs(7)));
        assert_eq!(exec_timeout(-1).unwrap(), None);
        assert!(exec_timeout(-2).is_err());
    }
}
