//! The flags of the roles that stay.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use host_agent::HostConfig;
use host_agent::jail::Layer;
use host_agent::net::TrafficLimits;
use host_agent::sandbox::{LimitSettings, OnClose, PoolMode};
use model::TemplateName;
use vmm::{AcceleratorMode, DiskLimits};

use super::{
    ConfigArgs, DatabaseArgs, DomainArgs, DrainArgs, HostListen, LogArgs, ReconcileArgs, ServiceArgs, TlsArgs,
    TokenKeyArgs,
};

/// Where templates, sandboxes and the database are kept, unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/sandpiper";
/// Where the REST API is served, unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// What the end of the server does to sandboxes that run. Paused ones stay on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnExit {
    /// They run on, and the next start takes them over.
    Keep,
    /// They are deleted.
    Destroy,
    /// They are paused, and can be resumed after the next start.
    Pause,
}

impl OnExit {
    /// The same for the host agent.
    pub fn on_close(self) -> OnClose {
        match self {
            Self::Keep => OnClose::Keep,
            Self::Destroy => OnClose::Destroy,
            Self::Pause => OnClose::Pause,
        }
    }
}

impl fmt::Display for OnExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "running sandboxes run on, paused ones stay on disk",
            Self::Destroy => "running sandboxes are deleted, paused ones stay on disk",
            Self::Pause => "running sandboxes are paused, and all stay on disk",
        })
    }
}

/// `sandpiper up`: control plane and host agent in one process.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub domain: DomainArgs,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub token_key: TokenKeyArgs,
    #[command(flatten)]
    pub reconcile: ReconcileArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sandpiper host-agent`.
#[derive(Debug, Clone, Args)]
pub struct HostAgentArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Address, or unix:PATH, to serve the control plane at; without TLS only loopback
    #[arg(long = "listen", env = "SANDPIPER_HOST_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:50051")]
    pub listen: HostListen,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub drain: DrainArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sandpiper control-plane`.
#[derive(Debug, Clone, Args)]
pub struct ControlPlaneArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub api: ApiArgs,
    #[command(flatten)]
    pub domain: DomainArgs,
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub token_key: TokenKeyArgs,
    #[command(flatten)]
    pub reconcile: ReconcileArgs,
    #[command(flatten)]
    pub service: ServiceArgs,
    /// Directory for the database
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// The host agent: https://HOST:PORT, http:// on loopback, or unix:PATH
    #[arg(long, env = "SANDPIPER_HOST_AGENT", value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub host_agent: String,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// How the REST API is offered.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// Address to serve the REST API at
    #[arg(long, env = "SANDPIPER_LISTEN", value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// Serve anyone who can connect, also from other machines. Without this a server that has no API keys listens only
    /// on loopback addresses
    #[arg(long, env = "SANDPIPER_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,
}

/// How sandboxes are run.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    /// Directory for templates, sandboxes and the database
    #[arg(long, env = "SANDPIPER_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// What guests execute on: auto, kvm or tcg. Auto is KVM where it works, else QEMU's own emulation
    #[arg(long, env = "SANDPIPER_ACCEL", value_name = "MODE", default_value = "auto")]
    pub accel: AcceleratorMode,
    /// Templates to build if they are missing; the server is ready when they are there. Separated by commas
    #[arg(long, env = "SANDPIPER_TEMPLATES", value_name = "LIST", value_delimiter = ',', default_value = "minimal")]
    pub templates: Vec<TemplateName>,
    /// What the server's end does to sandboxes that run: keep, pause or destroy. Kept ones run on, and the next start
    /// takes them over. Paused ones stay on disk either way
    #[arg(long, env = "SANDPIPER_ON_EXIT", value_name = "WHAT", value_enum, default_value = "keep")]
    pub on_exit: OnExit,
    /// Seconds that a guest may take from power-on to its first answer
    #[arg(long, env = "SANDPIPER_BOOT_TIMEOUT_SEC", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub boot_timeout_sec: u64,
    /// Free disk space in MB that sandboxes never use: with less, a create is refused
    #[arg(long, env = "SANDPIPER_DISK_RESERVE_MB", value_name = "MB", default_value_t = 1024)]
    pub disk_reserve_mb: u64,
    /// How many sandboxes of each kind in use are kept ready before they are asked for: auto, off or a number. Auto is as
    /// many as their use asks for, within a part of the host's memory
    #[arg(long, env = "SANDPIPER_POOL", value_name = "MODE", default_value_t = PoolMode::Auto)]
    pub pool: PoolMode,
    /// Memory in MB that running sandboxes may have together. Unless given it is twice the host's: they take only what
    /// they touch
    #[arg(long, env = "SANDPIPER_MAX_MEMORY_MB", value_name = "MB")]
    pub max_memory_mb: Option<u64>,
    /// vCPUs that running sandboxes may have together, for each processor of the host
    #[arg(long, env = "SANDPIPER_VCPU_OVERCOMMIT", value_name = "NUMBER", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub vcpu_overcommit: u32,
    /// Sandboxes that one owner may have at once, paused ones included
    #[arg(long, env = "SANDPIPER_MAX_SANDBOXES_PER_OWNER", value_name = "NUMBER")]
    pub max_sandboxes_per_owner: Option<u64>,
    /// Memory in MB that the running sandboxes of one owner may have together
    #[arg(long, env = "SANDPIPER_MAX_MEMORY_MB_PER_OWNER", value_name = "MB")]
    pub max_memory_mb_per_owner: Option<u64>,
    /// First of the 65536 user ids, two for each network slot, that virtual machines and their proxies run under; nobody
    /// else may have them
    #[arg(long, env = "SANDPIPER_UID_BASE", value_name = "UID", default_value_t = 1_879_048_192,
          value_parser = clap::value_parser!(u32).range(65_536..=4_294_900_000))]
    pub uid_base: u32,
    /// Megabytes a second that a sandbox may send, and as many that it may receive
    #[arg(long, env = "SANDPIPER_GUEST_BANDWIDTH_MB", value_name = "MB", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub guest_bandwidth_mb: u32,
    /// Connections a second that a sandbox may begin
    #[arg(long, env = "SANDPIPER_GUEST_NEW_CONNECTIONS", value_name = "NUMBER", default_value_t = 500,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub guest_new_connections: u32,
    /// Connections that a sandbox may have at once
    #[arg(long, env = "SANDPIPER_GUEST_CONNECTIONS", value_name = "NUMBER", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub guest_connections: u32,
    /// Megabytes a second that a sandbox may read from its disk and write to it, together
    #[arg(long, env = "SANDPIPER_GUEST_DISK_BANDWIDTH_MB", value_name = "MB", default_value_t = 400,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub guest_disk_bandwidth_mb: u32,
    /// Requests a second that a sandbox may make to its disk
    #[arg(long, env = "SANDPIPER_GUEST_DISK_IOPS", value_name = "NUMBER", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(10..=100_000_000))]
    pub guest_disk_iops: u32,
    /// A layer of the jail around virtual machines that may be done without where the machine has none: cgroup-memory,
    /// cgroup-cpu, cgroup-pids, cgroup-io or landlock. May be given several times, or separated by commas
    #[arg(long, env = "SANDPIPER_ALLOW_DEGRADED_JAIL", value_name = "LAYER", value_delimiter = ',')]
    pub allow_degraded_jail: Vec<Layer>,
    /// QEMU to use instead of the one in the search path
    #[arg(long, env = "SANDPIPER_QEMU", value_name = "FILE")]
    pub qemu: Option<PathBuf>,
}

impl HostArgs {
    /// The same for the host agent.
    pub fn config(&self) -> HostConfig {
        HostConfig {
            data_dir: self.data_dir.clone(),
            accelerator: self.accel,
            qemu: self.qemu.clone(),
            boot_timeout: Duration::from_secs(self.boot_timeout_sec),
            disk_reserve_mb: self.disk_reserve_mb,
            limits: LimitSettings {
                memory_mb: self.max_memory_mb,
                vcpu_overcommit: self.vcpu_overcommit,
                owner_sandboxes: self.max_sandboxes_per_owner,
                owner_memory_mb: self.max_memory_mb_per_owner,
            },
            pool: self.pool,
            uid_base: self.uid_base,
            traffic: TrafficLimits {
                megabytes_per_second: self.guest_bandwidth_mb,
                new_connections_per_second: self.guest_new_connections,
                connections: self.guest_connections,
            },
            disk_limits: DiskLimits {
                megabytes_per_second: self.guest_disk_bandwidth_mb,
                operations_per_second: self.guest_disk_iops,
            },
            allow_degraded_jail: self.allow_degraded_jail.clone(),
            guest_agent: crate::GUEST_AGENT,
        }
    }
}
