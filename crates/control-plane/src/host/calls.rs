//! Unary calls.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use model::{OnExpiry, SandboxId, Status};
use proto::hostagent::v1 as pb;

use super::{HostAgent, HostError};
use crate::metrics::ExecEnd;
use crate::store::{HostFacts, Sandbox};

/// A first boot bakes nothing yet, but a busy host under emulation takes its time.
const CREATE: Duration = Duration::from_secs(180);
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

/// A program and its arguments, run as the template's default user in its default directory.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How long it may run.
    pub limit: RunLimit,
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
    /// Its exit code, where it ended by itself.
    pub exit_code: i32,
    /// Whether it took too long and was killed.
    pub timed_out: bool,
}

impl Collected {
    fn end(&self) -> ExecEnd {
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
}

/// A series of figures that a host keeps of each sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// A point each second, of the last ten minutes.
    Seconds,
    /// A point each half minute, of the last two hours.
    HalfMinutes,
    /// A point each five minutes, of the last day.
    FiveMinutes,
}

/// What a sandbox used at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Use {
    /// When, in seconds since 1970.
    pub at: i64,
    /// Of all its processors together, in percent.
    pub cpu_pct: f64,
    /// Bytes of memory that its guest has in use.
    pub memory_bytes: i64,
    /// Bytes of the host's disk that its writes take.
    pub disk_bytes: i64,
}

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

pub(super) fn within(deadline: Duration) -> CallOptions {
    CallOptions::default().with_timeout(deadline)
}

/// The shape's and lifetime's numbers are far below this; a protobuf `int32` is what the contract has.
fn int32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl HostAgent {
    /// Makes a sandbox and waits until its guest agent answers. Returns the address by which the host reaches it.
    pub async fn create(&self, sandbox: &Sandbox) -> Result<String, HostError> {
        let request = pb::CreateSandboxRequest {
            sandbox_id: sandbox.id.to_string(),
            template: sandbox.template.to_string(),
            vcpus: int32(sandbox.shape.vcpus.get()),
            memory_mb: int32(sandbox.shape.memory.get()),
            timeout_sec: int32(sandbox.lifetime.idle_seconds()),
            on_expiry: match sandbox.on_expiry {
                OnExpiry::Destroy => pb::OnExpiry::ON_EXPIRY_DESTROY.into(),
                OnExpiry::Pause => pb::OnExpiry::ON_EXPIRY_PAUSE.into(),
            },
            owner_id: sandbox.owner.to_string(),
            snapshot_id: sandbox.snapshot.as_ref().map(ToString::to_string).unwrap_or_default(),
            disk_mb: int32(sandbox.shape.disk.get()),
            ..Default::default()
        };
        let reply = self.sandboxes.create_sandbox_with_options(request, within(CREATE)).await?.into_owned();
        Ok(reply.host_ip)
    }

    /// Removes a sandbox and everything of it.
    pub async fn destroy(&self, id: &SandboxId) -> Result<(), HostError> {
        let request = pb::DestroySandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        self.sandboxes.destroy_sandbox_with_options(request, within(DESTROY)).await?;
        Ok(())
    }

    /// Stops a sandbox's execution, resumably.
    pub async fn pause(&self, id: &SandboxId) -> Result<(), HostError> {
        let request = pb::PauseSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        self.sandboxes.pause_sandbox_with_options(request, within(PAUSE)).await?;
        Ok(())
    }

    /// Lets a paused sandbox go on.
    pub async fn resume(&self, id: &SandboxId) -> Result<(), HostError> {
        let request = pb::ResumeSandboxRequest { sandbox_id: id.to_string(), ..Default::default() };
        self.sandboxes.resume_sandbox_with_options(request, within(RESUME)).await?;
        Ok(())
    }

    /// What a sandbox has used, oldest first. Of a paused one it is what was seen before the pause.
    pub async fn sandbox_metrics(&self, id: &SandboxId, series: Series) -> Result<Vec<Use>, HostError> {
        let range = match series {
            Series::Seconds => "10m",
            Series::HalfMinutes => "2h",
            Series::FiveMinutes => "24h",
        };
        let request =
            pb::GetSandboxMetricsRequest { sandbox_id: id.to_string(), range: range.to_owned(), ..Default::default() };
        let reply = self.sandboxes.get_sandbox_metrics_with_options(request, within(LIST)).await?.into_owned();
        let seen = |point: pb::MetricPoint| Use {
            at: point.timestamp_unix,
            cpu_pct: point.cpu_pct,
            memory_bytes: point.mem_bytes,
            disk_bytes: point.disk_bytes,
        };
        Ok(reply.points.into_iter().map(seen).collect())
    }

    /// Runs a command and collects its output. Giving up on the call ends the command.
    pub async fn exec(&self, id: &SandboxId, command: Command) -> Result<Collected, HostError> {
        let mut following = self.metrics.follow_exec();
        let result = self.call_exec(id, command).await;
        following.ends(match &result {
            Ok(collected) => collected.end(),
            Err(error) => ExecEnd::Error(error.reason()),
        });
        result
    }

    async fn call_exec(&self, id: &SandboxId, command: Command) -> Result<Collected, HostError> {
        let (timeout_sec, options) = match command.limit {
            RunLimit::Seconds(seconds) => (int32(seconds), within(Duration::from_secs(seconds.into()) + EXEC_MARGIN)),
            RunLimit::None => (-1, CallOptions::default()),
        };
        let request = pb::ExecRequest {
            sandbox_id: id.to_string(),
            cmd: command.cmd,
            args: command.args,
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
            timed_out: reply.timed_out,
        })
    }

    /// Times a program's start to end by the guest's own clock. 0 runs are the guest's default.
    pub async fn benchmark_spawn(&self, id: &SandboxId, count: u32) -> Result<SpawnTimes, HostError> {
        let request = pb::BenchmarkSpawnRequest { sandbox_id: id.to_string(), count, ..Default::default() };
        let reply = self.host.benchmark_spawn_with_options(request, within(BENCHMARK)).await?.into_owned();
        Ok(SpawnTimes { count: reply.count, median_us: reply.median_us, min_us: reply.min_us })
    }

    /// Every sandbox that the host has.
    pub async fn list(&self) -> Result<Vec<HostSandbox>, HostError> {
        let reply = self.sandboxes.list_sandboxes_with_options(Default::default(), within(LIST)).await?.into_owned();
        reply.sandboxes.into_iter().map(host_sandbox).collect()
    }

    /// What the host says of itself.
    pub async fn describe(&self) -> Result<HostFacts, HostError> {
        let reply = self.host.get_host_with_options(Default::default(), within(DESCRIBE)).await?.into_owned();
        Ok(HostFacts {
            instance_id: reply.instance_id,
            version: reply.version,
            accelerator: reply.accelerator,
            vmm_version: reply.vmm_version,
            templates: reply.templates,
        })
    }
}

fn host_sandbox(info: pb::SandboxInfo) -> Result<HostSandbox, HostError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        HostError::answered(ErrorCode::Internal, &format!("the host lists a sandbox that makes no sense: {error}"))
    };
    Ok(HostSandbox {
        id: info.sandbox_id.parse().map_err(|error| unreadable(&error))?,
        status: info.status.parse().map_err(|error| unreadable(&error))?,
        host_ip: info.host_ip,
    })
}
