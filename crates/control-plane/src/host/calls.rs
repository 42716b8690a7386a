//! Unary calls.

use std::time::{Duration, Instant};

use bytes::Bytes;
use connectrpc::client::CallOptions;
use connectrpc::{ConnectError, ErrorCode};
use jiff::Timestamp;
use model::{Extent, NetworkPolicy, OnExpiry, SandboxId, StartMode, Status};
use proto::hostagent::v1 as pb;

use super::{HostAgent, HostError, ProcessSpec};
use crate::metrics::ExecEnd;
use crate::store::{HostFacts, Sandbox, Series, TemplateBuild, Use};

/// A busy host under emulation takes its time, and a template may start something first.
const CREATE: Duration = Duration::from_secs(280);
const DESTROY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(120);
const RESUME: Duration = Duration::from_secs(120);
const LIST: Duration = Duration::from_secs(15);
const DESCRIBE: Duration = Duration::from_secs(5);
const BENCHMARK: Duration = Duration::from_secs(60);
/// What the host agent may take beyond a command's own limit.
const EXEC_MARGIN: Duration = Duration::from_secs(15);

/// How long a command may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLimit {
    /// For this long.
    Seconds(u32),
    /// For as long as someone waits for it.
    None,
}

impl RunLimit {
    /// As a duration, if there is one.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Seconds(seconds) => Some(Duration::from_secs(seconds.into())),
            Self::None => None,
        }
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// What was kept of its standard output.
    pub stdout: Bytes,
    /// What was kept of its standard error.
    pub stderr: Bytes,
    /// Bytes of standard output that were not kept.
    pub stdout_omitted: u64,
    /// Bytes of standard error that were not kept.
    pub stderr_omitted: u64,
    /// Its exit code; 128 and the signal's number where a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it took too long and was killed.
    pub timed_out: bool,
}

impl Collected {
    /// How it ended, for figures and records.
    pub fn end(&self) -> ExecEnd {
        if self.timed_out { ExecEnd::TimedOut } else { ExecEnd::exited(self.exit_code) }
    }
}

/// A sandbox as its host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSandbox {
    /// Its id.
    pub id: SandboxId,
    /// Its state there.
    pub status: Status,
    /// How the host reaches it.
    pub host_ip: String,
    /// Bytes of the host's disk that its own files take.
    pub disk_bytes: u64,
}

/// Everything that a host has measured of a sandbox, each series oldest first.
pub type History = [(Series, Vec<Use>); 3];

/// How long a program takes inside a sandbox, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnTimes {
    /// Runs.
    pub count: u32,
    /// The middle of them.
    pub median_us: u64,
    /// The quickest.
    pub min_us: u64,
}

/// What a sandbox costs its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of memory of its monitor.
    pub pss_bytes: u64,
    /// Microseconds of processor time of its monitor.
    pub cpu_us: u64,
    /// Microseconds from the start of its monitor to that one's first answer.
    pub monitor_start_us: u64,
    /// How it came to be, in the host's word.
    pub start: String,
    /// Microseconds that were waited for its jail meanwhile.
    pub jail_us: u64,
    /// Microseconds that were waited for its network.
    pub fence_us: u64,
}

pub(super) fn within(deadline: Duration) -> CallOptions {
    CallOptions::default().with_timeout(deadline)
}

/// Makes a call that may as well be made twice, and makes it once more where the connection broke before there was an
/// answer. The deadline is for both together.
pub(super) async fn repeatable<T, F>(deadline: Duration, call: impl Fn(CallOptions) -> F) -> Result<T, HostError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let until = Instant::now() + deadline;
    match call(within(deadline)).await.map_err(HostError::from) {
        Err(HostError::Unreachable(error)) => {
            tracing::debug!(%error, "the host agent is called again");
            let left = until.saturating_duration_since(Instant::now());
            match call(within(left)).await.map_err(HostError::from) {
                // What was left of the time may have been too little for anything.
                Err(again) if again.is_timeout() => Err(HostError::Unreachable(error)),
                settled => settled,
            }
        }
        answered => answered,
    }
}

fn used(point: pb::MetricPoint) -> Use {
    Use {
        at: point.timestamp_unix,
        cpu_pct: point.cpu_pct,
        memory_bytes: point.mem_bytes,
        disk_bytes: point.disk_bytes,
    }
}

/// Which change of its record a call carries out.
fn generation(sandbox: &Sandbox) -> u64 {
    u64::try_from(sandbox.generation).unwrap_or_default()
}

/// The shape's and lifetime's numbers are far below this; a protobuf `int32` is what the contract has.
fn int32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl HostAgent {
    /// Makes a sandbox and waits until its guest agent answers. Returns the address by which the host reaches it. The
    /// same id means the same sandbox, so it may be asked for twice.
    pub async fn create(
        &self,
        sandbox: &Sandbox,
        network: &NetworkPolicy,
        start: StartMode,
    ) -> Result<String, HostError> {
        let request = pb::CreateSandboxRequest {
            sandbox_id: sandbox.id.to_string(),
            template: sandbox.template.to_string(),
            vcpus: int32(sandbox.shape.vcpus.get()),
            memory_mb: int32(sandbox.shape.memory.get()),
            timeout_sec: int32(sandbox.lifetime.idle_seconds()),
            on_expiry: match sandbox.on_expiry {
                OnExpiry::Destroy => pb::OnExpiry::ON_EXPIRY_DESTROY.into(),
                OnExpiry::Pause => pb::OnExpiry::ON_EXPIRY_PAUSE.into(),
                OnExpiry::Stop => pb::OnExpiry::ON_EXPIRY_STOP.into(),
            },
            owner_id: sandbox.owner.to_string(),
            snapshot_id: sandbox.snapshot.as_ref().map(ToString::to_string).unwrap_or_default(),
            disk_mb: int32(sandbox.shape.disk.get()),
            start: match start {
                StartMode::Auto => pb::StartMode::START_MODE_AUTO.into(),
                StartMode::Boot => pb::StartMode::START_MODE_BOOT.into(),
                StartMode::Restore => pb::StartMode::START_MODE_RESTORE.into(),
            },
            network: super::network::wire(network).into(),
            env: sandbox.guest_env().into_iter().collect(),
            ..Default::default()
        };
        let call = |options| self.sandboxes.create_sandbox_with_options(request.clone(), options);
        Ok(repeatable(CREATE, call).await?.into_owned().host_ip)
    }

    /// Removes a sandbox and everything of it.
    pub async fn destroy(&self, id: &SandboxId) -> Result<(), HostError> {
        let request = pb::DestroySandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        repeatable(DESTROY, |options| self.sandboxes.destroy_sandbox_with_options(request.clone(), options)).await?;
        Ok(())
    }

    /// Stops a sandbox's execution, resumably.
    pub async fn pause(&self, sandbox: &Sandbox) -> Result<(), HostError> {
        let (sandbox_id, generation) = (sandbox.id.to_string(), generation(sandbox));
        let request = pb::PauseSandboxRequest { sandbox_id, generation, ..Default::default() };
        self.sandboxes.pause_sandbox_with_options(request, within(PAUSE)).await?;
        Ok(())
    }

    /// Ends a running or paused sandbox and keeps its disk alone.
    pub async fn stop(&self, sandbox: &Sandbox) -> Result<(), HostError> {
        let (sandbox_id, generation) = (sandbox.id.to_string(), generation(sandbox));
        let request = pb::StopSandboxRequest { sandbox_id, generation, ..Default::default() };
        self.host.stop_sandbox_with_options(request, within(PAUSE)).await?;
        Ok(())
    }

    /// Lets a paused sandbox go on, or starts a stopped one.
    pub async fn resume(&self, sandbox: &Sandbox, from: Extent) -> Result<(), HostError> {
        let (sandbox_id, generation) = (sandbox.id.to_string(), generation(sandbox));
        let from_disk = from == Extent::Disk;
        let request = pb::ResumeSandboxRequest { sandbox_id, generation, from_disk, ..Default::default() };
        self.sandboxes.resume_sandbox_with_options(request, within(RESUME)).await?;
        Ok(())
    }

    /// What a sandbox has used, oldest first, since it was last paused.
    pub async fn sandbox_metrics(&self, id: &SandboxId, series: Series) -> Result<Vec<Use>, HostError> {
        let (sandbox_id, range) = (id.to_string(), series.as_str().to_owned());
        let request = pb::GetSandboxMetricsRequest { sandbox_id, range, ..Default::default() };
        let call = |options| self.sandboxes.get_sandbox_metrics_with_options(request.clone(), options);
        Ok(repeatable(LIST, call).await?.into_owned().points.into_iter().map(used).collect())
    }

    /// Takes everything that the host has measured of a sandbox; the host forgets it.
    pub async fn flush_metrics(&self, id: &SandboxId) -> Result<History, HostError> {
        let request = pb::FlushSandboxMetricsRequest { sandbox_id: id.to_string(), ..Default::default() };
        let reply = self.sandboxes.flush_sandbox_metrics_with_options(request, within(LIST)).await?.into_owned();
        let all = |points: Vec<pb::MetricPoint>| points.into_iter().map(used).collect();
        Ok([
            (Series::Seconds, all(reply.points_10m)),
            (Series::HalfMinutes, all(reply.points_2h)),
            (Series::FiveMinutes, all(reply.points_24h)),
        ])
    }

    /// Runs a command, with neither tag nor terminal, and collects its output. Giving up on the call ends the command.
    pub async fn exec(&self, id: &SandboxId, command: ProcessSpec) -> Result<Collected, HostError> {
        let mut following = self.metrics.follow_exec();
        let result = self.call_exec(id, command).await;
        following.ends(match &result {
            Ok(collected) => collected.end(),
            Err(error) => ExecEnd::Error(error.reason()),
        });
        result
    }

    async fn call_exec(&self, id: &SandboxId, command: ProcessSpec) -> Result<Collected, HostError> {
        let (timeout_sec, options) = match command.limit {
            RunLimit::Seconds(seconds) => (int32(seconds), within(Duration::from_secs(seconds.into()) + EXEC_MARGIN)),
            RunLimit::None => (-1, CallOptions::default()),
        };
        let request = pb::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: command.cmd,
            args: command.args,
            envs: command.envs.into_iter().collect(),
            cwd: command.cwd.unwrap_or_default(),
            user: command.user.unwrap_or_default(),
            timeout_sec,
            partial_on_timeout: true,
            ..Default::default()
        };
        let reply = self.sandboxes.exec_with_options(request, options).await?.into_owned();
        Ok(Collected {
            stdout: reply.stdout.into(),
            stderr: reply.stderr.into(),
            stdout_omitted: reply.stdout_omitted,
            stderr_omitted: reply.stderr_omitted,
            exit_code: reply.exit_code,
            signal: Some(reply.signal).filter(|signal| *signal != 0),
            timed_out: reply.timed_out,
        })
    }

    /// Times a program's start to end by the guest's own clock. 0 runs are the guest's default.
    pub async fn benchmark_spawn(&self, id: &SandboxId, count: u32) -> Result<SpawnTimes, HostError> {
        let request = pb::BenchmarkSpawnRequest { sandbox_id: id.to_string(), count, ..Default::default() };
        let reply = self.host.benchmark_spawn_with_options(request, within(BENCHMARK)).await?.into_owned();
        Ok(SpawnTimes { count: reply.count, median_us: reply.median_us, min_us: reply.min_us })
    }

    /// What a running sandbox costs.
    pub async fn footprint(&self, id: &SandboxId) -> Result<Footprint, HostError> {
        let request = pb::GetFootprintRequest { sandbox_id: id.to_string(), ..Default::default() };
        let reply = self.host.get_footprint_with_options(request, within(LIST)).await?.into_owned();
        Ok(Footprint {
            pss_bytes: reply.pss_bytes,
            cpu_us: reply.cpu_us,
            monitor_start_us: reply.monitor_start_us,
            start: reply.start,
            jail_us: reply.jail_us,
            fence_us: reply.fence_us,
        })
    }

    /// Every sandbox that the host has.
    pub async fn list(&self) -> Result<Vec<HostSandbox>, HostError> {
        self.list_those(pb::ListSandboxesRequest::default()).await
    }

    /// One sandbox, if the host has it.
    pub async fn find(&self, id: &SandboxId) -> Result<Option<HostSandbox>, HostError> {
        let request = pb::ListSandboxesRequest { sandbox_id: id.to_string(), ..Default::default() };
        Ok(self.list_those(request).await?.into_iter().find(|sandbox| sandbox.id == *id))
    }

    async fn list_those(&self, request: pb::ListSandboxesRequest) -> Result<Vec<HostSandbox>, HostError> {
        let call = |options| self.sandboxes.list_sandboxes_with_options(request.clone(), options);
        repeatable(LIST, call).await?.into_owned().sandboxes.into_iter().map(host_sandbox).collect()
    }

    /// What the host says of itself.
    pub async fn describe(&self) -> Result<HostFacts, HostError> {
        let call = |options| self.host.get_host_with_options(Default::default(), options);
        let reply = repeatable(DESCRIBE, call).await?.into_owned();
        Ok(HostFacts {
            instance_id: reply.instance_id,
            version: reply.version,
            accelerator: reply.accelerator,
            vmm_version: reply.vmm_version,
            templates: reply.templates,
            template_builds: reply.template_builds.into_iter().map(template_build).collect(),
            building_templates: reply.building_templates,
            lacking_layers: reply.lacking_layers.into_iter().map(|lacking| lacking.layer).collect(),
        })
    }
}

fn template_build(told: pb::TemplateBuild) -> TemplateBuild {
    let made_at = Timestamp::from_millisecond(told.created_unix_ms).unwrap_or_default();
    TemplateBuild { template: told.template, id: told.build, made_at }
}

fn host_sandbox(info: pb::SandboxInfo) -> Result<HostSandbox, HostError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        HostError::answered(ErrorCode::Internal, &format!("the host lists a sandbox that makes no sense: {error}"))
    };
    Ok(HostSandbox {
        id: info.sandbox_id.parse().map_err(|error| unreadable(&error))?,
        status: info.status.parse().map_err(|error| unreadable(&error))?,
        host_ip: info.host_ip,
        disk_bytes: u64::try_from(info.disk_bytes).unwrap_or_default(),
    })
}
