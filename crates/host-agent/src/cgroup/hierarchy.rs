//! Where which controller is, on machines with cgroups of version 1, 2 or both, and what a limit is called there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::block_device::BlockDevice;
use super::limits::CgroupLimits;

/// What a group can be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory, with what the monitor itself needs.
    Memory,
    /// Time on processors.
    Cpu,
    /// Processes and threads.
    Pids,
    /// Throughput of the disk that sandboxes are on.
    Io,
}

impl Controller {
    /// All that are used.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Cpu, Self::Pids, Self::Io];

    /// The kernel's name.
    pub fn as_str(self) -> &'static str {
        self.name(Version::Two)
    }

    fn name(self, version: Version) -> &'static str {
        match (self, version) {
            (Self::Memory, _) => "memory",
            (Self::Cpu, _) => "cpu",
            (Self::Pids, _) => "pids",
            (Self::Io, Version::One) => "blkio",
            (Self::Io, Version::Two) => "io",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A controller that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which one.
    pub controller: Controller,
    /// Why.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A tree of groups with the controllers that are used in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    version: Version,
    /// The installation's own group.
    pub own: PathBuf,
    controllers: Vec<Controller>,
    /// The disk whose throughput is limited in it.
    disk: Option<BlockDevice>,
}

const NOWHERE: &str = "no cgroup hierarchy that is mounted has it";
const NO_DISK: &str = "the data directory is not on one block device";

/// The controllers that are nowhere in a table of mounts.
pub(super) fn unmounted(mounts: &str) -> Vec<Missing> {
    let nowhere = Controller::ALL.into_iter().filter(|controller| place_of(mounts, *controller).is_none());
    nowhere.map(|controller| Missing { controller, reason: NOWHERE.to_owned() }).collect()
}

/// Finds the controllers in a table of mounts and makes the installation's group wherever there is one. The disk is the one
/// that sandboxes are on.
pub(super) fn find(mounts: &str, own: &str, disk: Option<&BlockDevice>) -> (Vec<Hierarchy>, Vec<Missing>) {
    let (mut hierarchies, mut missing) = (Vec::<Hierarchy>::new(), Vec::new());
    for controller in Controller::ALL {
        match find_one(mounts, own, controller, disk) {
            Ok(found) => match hierarchies.iter_mut().find(|hierarchy| hierarchy.own == found.own) {
                Some(hierarchy) => hierarchy.take(found),
                None => hierarchies.push(found),
            },
            Err(reason) => missing.push(Missing { controller, reason }),
        }
    }
    (hierarchies, missing)
}

fn find_one(mounts: &str, own: &str, controller: Controller, disk: Option<&BlockDevice>) -> Result<Hierarchy, String> {
    let (version, root) = place_of(mounts, controller).ok_or(NOWHERE)?;
    let own = root.join(own);
    let disk = match controller {
        Controller::Io => Some(disk.ok_or(NO_DISK)?.clone()),
        _ => None,
    };
    prepare(version, &root, &own, controller).map_err(|error| format!("{}: {error}", root.display()))?;
    if let Some(disk) = &disk {
        let (file, unlimited) = unlimited(version, disk);
        // Not every disk can be limited; without this it would be noticed by the first sandbox.
        fs::write(own.join(file), unlimited).map_err(|error| format!("block device {disk}: {error}"))?;
    }
    Ok(Hierarchy { version, own, controllers: vec![controller], disk })
}

/// The hierarchy that has a controller: it is in one only.
fn place_of(mounts: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (root, kind, options) = (Path::new(fields.next()?), fields.next()?, fields.next()?);
        let has = |list: &str, separator: char, version: Version| {
            list.trim().split(separator).any(|name| name == controller.name(version))
        };
        match kind {
            "cgroup" if has(options, ',', Version::One) => Some((Version::One, root.to_owned())),
            "cgroup2" if has(&fs::read_to_string(root.join("cgroup.controllers")).ok()?, ' ', Version::Two) => {
                Some((Version::Two, root.to_owned()))
            }
            _ => None,
        }
    })
}

/// Makes the installation's group, in which groups can have the controller.
fn prepare(version: Version, root: &Path, own: &Path, controller: Controller) -> io::Result<()> {
    let enable = |group: &Path| fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
    if version == Version::Two {
        enable(root)?;
    }
    match fs::create_dir(own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if version == Version::Two { enable(own) } else { Ok(()) }
}

/// The time over which a share of processors is measured, in microseconds.
const PERIOD_US: u64 = 100_000;

impl Hierarchy {
    /// The files of a group and what to write to them.
    pub fn settings(&self, limits: &CgroupLimits) -> Vec<(&'static str, String)> {
        let of_controllers = self.controllers.iter().flat_map(|one| settings_of(self.version, *one, limits));
        let of_disk = self.disk.iter().flat_map(|disk| settings_of_disk(self.version, disk, limits));
        of_controllers.chain(of_disk).collect()
    }

    /// That another controller is in the same.
    fn take(&mut self, other: Self) {
        self.controllers.extend(other.controllers);
        self.disk = self.disk.take().or(other.disk);
    }
}

fn settings_of(version: Version, controller: Controller, limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    let quota = PERIOD_US * limits.cpu_percent() / 100;
    match (version, controller) {
        (Version::One, Controller::Memory) => vec![("memory.limit_in_bytes", limits.memory_bytes().to_string())],
        (Version::One, Controller::Cpu) => vec![
            ("cpu.cfs_period_us", PERIOD_US.to_string()),
            ("cpu.cfs_quota_us", quota.to_string()),
            ("cpu.shares", (1024 * u64::from(limits.vcpus)).to_string()),
        ],
        (Version::Two, Controller::Memory) => {
            vec![("memory.max", limits.memory_bytes().to_string()), ("memory.oom.group", "1".to_owned())]
        }
        (Version::Two, Controller::Cpu) => vec![
            ("cpu.max", format!("{quota} {PERIOD_US}")),
            ("cpu.weight", (100 * u64::from(limits.vcpus)).min(10_000).to_string()),
        ],
        (_, Controller::Pids) => vec![("pids.max", limits.threads().to_string())],
        // Those of the disk come beside these.
        (_, Controller::Io) => Vec::new(),
    }
}

fn settings_of_disk(version: Version, disk: &BlockDevice, limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    let Some((bytes, operations)) = limits.disk() else { return Vec::new() };
    match version {
        Version::One => vec![
            ("blkio.throttle.read_bps_device", format!("{disk} {bytes}")),
            ("blkio.throttle.write_bps_device", format!("{disk} {bytes}")),
            ("blkio.throttle.read_iops_device", format!("{disk} {operations}")),
            ("blkio.throttle.write_iops_device", format!("{disk} {operations}")),
        ],
        Version::Two => {
            vec![("io.max", format!("{disk} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}"))]
        }
    }
}

/// What to write where to limit nothing.
fn unlimited(version: Version, disk: &BlockDevice) -> (&'static str, String) {
    match version {
        Version::One => ("blkio.throttle.read_bps_device", format!("{disk} 0")),
        Version::Two => ("io.max", format!("{disk} rbps=max")),
    }
}
