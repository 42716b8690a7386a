//! What all sandboxes of this host share, opened once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::InstanceId;
use rustix::fs::FlockOperation;
use vmm::Vmm;
use vmm::qemu::{BundleError, Qemu};
use vmm::{AcceleratorMode, DiskLimits, ForcedKvmUnusable};

use crate::cgroup::Cgroups;
use crate::egress::{Authority, AuthorityError};
use crate::files::write_durably;
use crate::jail::{self, LackingLayer, Landlock, Layer};
use crate::machine::{self, Machine, Surroundings, ThisMachine};
use crate::net::{self, Network, NetworkConfig, Networks, Slot, TrafficLimits};
use crate::sandbox::{self, Ledger, LimitSettings, Pool, PoolMode, Turns};
use crate::snapshot::{Bakes, Manifest, Origin, SnapshotError, Snapshots};
use crate::template::{BuildId, TemplateError, TemplateStore};

/// What baked images may take on the disk. One of an ordinary shape takes about 100 MB.
const BAKE_BUDGET_BYTES: u64 = 10 << 30;

/// From a monitor's uid to that of the same slot's resolver and proxy.
const EGRESS_UIDS: u32 = 32_768;

/// How a host agent is set up.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Everything that it keeps.
    pub data_dir: PathBuf,
    /// What guests execute on.
    pub accelerator: AcceleratorMode,
    /// A QEMU other than the one in the search path.
    pub qemu: Option<PathBuf>,
    /// How long a guest may take from power-on to its first answer.
    pub boot_timeout: Duration,
    /// Free disk space that sandboxes never use, in MiB.
    pub disk_reserve_mb: u64,
    /// What sandboxes may take of this host at most.
    pub limits: LimitSettings,
    /// How many sandboxes are kept ready.
    pub pool: PoolMode,
    /// The first of 65536 uids and gids, two for each slot.
    pub uid_base: u32,
    /// What each guest may send and receive.
    pub traffic: TrafficLimits,
    /// What each may ask of its disk.
    pub disk_limits: DiskLimits,
    /// Layers of the jail that monitors may lack where the machine does.
    pub allow_degraded_jail: Vec<Layer>,
    /// The agent that guests run.
    pub guest_agent: &'static [u8],
}

/// What all sandboxes of a host share.
pub struct Host {
    /// Part of every name that is made on this machine.
    pub instance: InstanceId,
    /// Everything that is kept.
    pub data_dir: PathBuf,
    /// The virtual machine monitor.
    pub vmm: Arc<dyn Vmm>,
    /// The networks of sandboxes.
    pub network: Arc<dyn Networks>,
    /// What the machine says and does.
    pub surroundings: Arc<dyn Surroundings>,
    /// The groups that limit what monitors take.
    pub cgroups: Cgroups,
    /// Layers of the jail that monitors lack here.
    pub lacking_layers: Vec<LackingLayer>,
    /// Whom guests believe whose requests get headers.
    pub authority: Authority,
    /// What sandboxes boot from.
    pub templates: TemplateStore,
    /// What sandboxes are restored from instead of booting.
    pub bakes: Bakes,
    /// What was captured of sandboxes.
    pub snapshots: Snapshots,
    /// What is promised to sandboxes.
    pub ledger: Ledger,
    /// Who may start a virtual machine now.
    pub turns: Turns,
    /// Sandboxes that are ready before anyone asks for them.
    pub pool: Pool,
    /// How long a guest may take to answer.
    pub boot_timeout: Duration,
    /// Free disk space that sandboxes never use, in MiB.
    pub disk_reserve_mb: u64,
    /// What each guest may ask of its disk.
    pub disk_limits: DiskLimits,
    /// The machine's present boot.
    pub machine_boot: String,
    uid_base: u32,
    /// Held as long as this host agent lives.
    _lock: File,
}

/// Why a host agent cannot work here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Namespaces, devices and other users' processes are root's.
    #[error("the host agent must run as root: it makes namespaces, networks and jails")]
    NotRoot,
    /// The data directory.
    #[error("{step} {}", path.display())]
    DataDir {
        /// What was done.
        step: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Another host agent works in it.
    #[error("another server is using {}; stop it, or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// KVM was demanded.
    #[error(transparent)]
    Accelerator(#[from] ForcedKvmUnusable),
    /// QEMU.
    #[error(transparent)]
    Vmm(#[from] BundleError),
    /// The jail.
    #[error(transparent)]
    Jail(#[from] LackingLayer),
    /// Networks.
    #[error("prepare the host's network")]
    Network(#[from] net::OpenError),
    /// What vouches for hosts.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Templates.
    #[error("open the templates")]
    Templates(#[from] TemplateError),
    /// Baked images.
    #[error("open the baked images")]
    Bakes(#[from] SnapshotError),
    /// Snapshots.
    #[error("open the snapshots")]
    Snapshots(#[source] SnapshotError),
    /// The kernel does not say which boot of the machine this is.
    #[error("tell this boot of the machine from others")]
    MachineBoot(#[source] io::Error),
    /// The process's own settings.
    #[error("become the parent of monitors that outlive their helper")]
    Subreaper(#[source] io::Error),
}

impl Host {
    /// Opens everything. Blocks for some tenths of a second; the first time QEMU is copied.
    pub async fn open(config: HostConfig) -> Result<Self, HostError> {
        if !rustix::process::geteuid().is_root() {
            return Err(HostError::NotRoot);
        }
        let home = Home::open(&config.data_dir)?;
        // Monitors lose their helper at once; as our children they are reaped as long as we live.
        let own = Some(rustix::process::getpid());
        rustix::process::set_child_subreaper(own).map_err(|error| HostError::Subreaper(error.into()))?;
        let choice = vmm::choose(config.accelerator, vmm::kvm_obstacle())?;
        tracing::info!(accelerator = %choice.accelerator, reason = %choice.reason, "accelerator chosen");
        let vmm = Arc::new(Qemu::open(&config.data_dir, config.qemu.as_deref(), choice)?);
        let (cgroups, lacking_layers) = layers(&home.instance, &config)?;
        let network = NetworkConfig {
            limits: config.traffic,
            resolvers: resolvers(),
            ..NetworkConfig::new(home.instance.clone(), config.data_dir.clone())
        };
        let network = Arc::new(Network::open(network).await?);
        let machine = Machine { vmm, network, cgroups, lacking_layers, surroundings: Arc::new(ThisMachine) };
        Self::with(config, home, machine)
    }

    /// Opens the files, for a machine that is not this one.
    pub fn open_on(config: HostConfig, machine: impl FnOnce(&InstanceId) -> Machine) -> Result<Self, HostError> {
        let home = Home::open(&config.data_dir)?;
        let machine = machine(&home.instance);
        Self::with(config, home, machine)
    }

    fn with(config: HostConfig, home: Home, machine: Machine) -> Result<Self, HostError> {
        let data_dir = &config.data_dir;
        let templates = TemplateStore::open(data_dir, config.guest_agent)?;
        let bakes = Bakes::open(data_dir, BAKE_BUDGET_BYTES)?;
        let snapshots = Snapshots::open(data_dir).map_err(HostError::Snapshots)?;
        Ok(Self {
            instance: home.instance,
            bakes,
            snapshots,
            ledger: Ledger::new(config.limits.here()),
            turns: Turns::here(),
            pool: Pool::new(config.pool),
            vmm: machine.vmm,
            network: machine.network,
            surroundings: machine.surroundings,
            cgroups: machine.cgroups,
            lacking_layers: machine.lacking_layers,
            authority: Authority::open(data_dir)?,
            templates,
            boot_timeout: config.boot_timeout,
            disk_reserve_mb: config.disk_reserve_mb,
            disk_limits: config.disk_limits,
            machine_boot: machine::boot_id().map_err(HostError::MachineBoot)?,
            uid_base: config.uid_base,
            data_dir: config.data_dir,
            _lock: home.lock,
        })
    }

    /// Where each sandbox has a directory.
    pub fn sandboxes_dir(&self) -> PathBuf {
        self.data_dir.join("sandboxes")
    }

    /// Removes template builds and copies of the monitor that neither sandboxes nor anything captured needs. Only before
    /// the first sandbox is made. What cannot be removed costs disk space and nothing else.
    pub fn prune(&self) {
        let captured = self.captured();
        let mut builds = sandbox::builds_in(&self.sandboxes_dir());
        builds.extend(captured.iter().map(|origin| origin.build.clone()));
        if let Err(error) = self.templates.prune(&builds) {
            tracing::warn!(error = &error as &dyn std::error::Error, "old templates are left");
        }
        let mut platforms = sandbox::platforms_in(&self.sandboxes_dir());
        platforms.extend(captured.into_iter().map(|origin| origin.platform));
        if let Err(error) = self.vmm.prune(&platforms) {
            tracing::warn!(%error, "old copies of the monitor are left");
        }
    }

    /// The template builds that sandboxes and snapshots need.
    pub fn builds_in_use(&self) -> HashSet<BuildId> {
        let captured = self.captured().into_iter().map(|origin| origin.build);
        captured.chain(sandbox::builds_in(&self.sandboxes_dir())).collect()
    }

    /// What paused sandboxes and snapshots were captured of.
    fn captured(&self) -> Vec<Origin> {
        let entries = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten();
        let paused = entries(self.sandboxes_dir()).map(|entry| sandbox::paused_dir(&entry.path()));
        let snapshots = entries(self.data_dir.join("snapshots")).map(|entry| entry.path());
        // What has no manifest needs nothing.
        paused.chain(snapshots).filter_map(|path| Some(Manifest::read(&path).ok()?.origin)).collect()
    }

    /// Whether monitors have this layer of the jail.
    pub fn landlock(&self) -> Landlock {
        match self.lacking_layers.iter().any(|lacking| lacking.layer == Layer::Landlock) {
            true => Landlock::Absent,
            false => Landlock::Required,
        }
    }

    /// The uid and gid of a slot's monitor: slots are claimed for the whole machine, so no two monitors share one.
    pub fn uid_of(&self, slot: Slot) -> u32 {
        self.uid_base + u32::from(slot.number())
    }

    /// The same for its resolver and proxy: they have nothing to do with each other.
    pub fn egress_uid_of(&self, slot: Slot) -> u32 {
        self.uid_of(slot) + EGRESS_UIDS
    }
}

/// A data directory that is this host agent's.
struct Home {
    lock: File,
    instance: InstanceId,
}

impl Home {
    fn open(data_dir: &Path) -> Result<Self, HostError> {
        Ok(Self { lock: prepare(data_dir)?, instance: instance_id(data_dir)? })
    }
}

/// The groups for monitors, and what the jail lacks here of what it was allowed to lack.
fn layers(instance: &InstanceId, config: &HostConfig) -> Result<(Cgroups, Vec<LackingLayer>), HostError> {
    let (cgroups, missing) = Cgroups::open(instance, &config.data_dir);
    let lacking = jail::lacking(missing);
    let is_allowed = |layer: Layer| !layer.is_required() || config.allow_degraded_jail.contains(&layer);
    if let Some(refused) = lacking.iter().find(|lacking| !is_allowed(lacking.layer)) {
        cgroups.close();
        return Err(refused.clone().into());
    }
    for LackingLayer { layer, reason } in &lacking {
        tracing::warn!(%layer, %reason, "the jail is degraded: monitors run without this layer");
    }
    Ok((cgroups, lacking))
}

/// Makes the data directory and locks it.
fn prepare(data_dir: &Path) -> Result<File, HostError> {
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| HostError::DataDir { step, path, source }
    };
    let make = |path: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    make(data_dir, 0o700).map_err(failed("make", data_dir))?;
    let sandboxes = data_dir.join("sandboxes");
    make(&sandboxes, 0o700).map_err(failed("make", &sandboxes))?;
    let path = data_dir.join("lock");
    let lock = File::create(&path).map_err(failed("open", &path))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(HostError::InUse(data_dir.to_owned())),
        Err(error) => Err(failed("lock", &path)(error.into())),
    }
}

/// The data directory's id, made the first time.
fn instance_id(data_dir: &Path) -> Result<InstanceId, HostError> {
    let path = data_dir.join("instance-id");
    let failed = |step| {
        let path = path.clone();
        move |source| HostError::DataDir { step, path, source }
    };
    match fs::read_to_string(&path) {
        Ok(text) => {
            text.trim().parse().map_err(|error| failed("read")(io::Error::new(io::ErrorKind::InvalidData, error)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = InstanceId::random();
            write_durably(&path, id.as_str().as_bytes()).map_err(failed("write"))?;
            Ok(id)
        }
        Err(error) => Err(failed("read")(error)),
    }
}

/// Where the host's name servers are written down, where its resolver is a process of its own.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The name servers that answer guests' questions: the host's, or public ones where it has none that can be used.
fn resolvers() -> Vec<Ipv4Addr> {
    let written =
        ["/etc/resolv.conf", RESOLVED].map(|path| usable_resolvers(&fs::read_to_string(path).unwrap_or_default()));
    let found = written.into_iter().find(|resolvers| !resolvers.is_empty());
    found.unwrap_or_else(|| vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)])
}

/// Those that packets can be sent to: a resolver on the host's loopback is not one of them.
fn usable_resolvers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<Ipv4Addr>().ok())
        .filter(|address| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_on_the_host_s_loopback_is_none_for_guests() {
        let usable = usable_resolvers("nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch x\n");
        assert_eq!(usable, [Ipv4Addr::new(192, 0, 2, 1)]);
        assert_eq!(usable_resolvers("nameserver ::1\n"), Vec::<Ipv4Addr>::new());
        assert!(!resolvers().is_empty());
    }

    #[test]
    fn an_instance_id_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = instance_id(directory.path()).unwrap();
        assert_eq!(instance_id(directory.path()).unwrap(), first);
        fs::write(directory.path().join("instance-id"), "../x").unwrap();
        assert!(instance_id(directory.path()).is_err());
    }

    #[test]
    fn a_data_directory_has_one_server() {
        let directory = tempfile::tempdir().unwrap();
        let lock = prepare(directory.path()).unwrap();
        assert!(matches!(prepare(directory.path()), Err(HostError::InUse(_))));
        drop(lock);
        prepare(directory.path()).unwrap();
    }

    #[tokio::test]
    async fn what_paused_sandboxes_and_snapshots_need_is_kept_and_the_rest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path();
        let captured = |at: &str, bundle: &str, build: &str| {
            let mut origin = crate::snapshot::manifest_tests::origin();
            (origin.platform.bundle, origin.build) = (bundle.to_owned(), build.parse().unwrap());
            fs::create_dir_all(data_dir.join(at)).unwrap();
            Manifest::new(origin).write(&data_dir.join(at)).unwrap();
        };
        captured("sandboxes/sb1/paused", "aa", "00000000000000aa");
        captured("snapshots/sn1", "bb", "00000000000000bb");
        captured("sandboxes/sb2/spent", "cc", "00000000000000cc");
        let things = ["aa", "bb", "cc"].map(|name| {
            [data_dir.join("vmm").join(name), data_dir.join(format!("templates/minimal/00000000000000{name}"))]
        });
        for path in things.iter().flatten() {
            fs::create_dir_all(path).unwrap();
        }
        let host = Host::open(HostConfig {
            data_dir: data_dir.to_owned(),
            accelerator: AcceleratorMode::Tcg,
            qemu: None,
            boot_timeout: Duration::from_secs(30),
            disk_reserve_mb: 0,
            uid_base: 2_000_000_000,
            limits: LimitSettings::default(),
            pool: PoolMode::Off,
            traffic: TrafficLimits::default(),
            disk_limits: DiskLimits::default(),
            allow_degraded_jail: Layer::ALL.to_vec(),
            guest_agent: b"",
        });
        let host = host.await.unwrap();
        host.prune();
        let there = things.map(|pair| pair.map(|path| path.exists()));
        assert_eq!(there, [[true, true], [true, true], [false, false]]);
        assert!(data_dir.join("vmm").join(host.vmm.platform().bundle).is_dir(), "and what is current");
    }
}
