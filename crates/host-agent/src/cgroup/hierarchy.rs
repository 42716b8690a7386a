//! Where which controller is, on machines with cgroups of version 1, 2 or both, and what a limit is called there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
}

impl Controller {
    /// All that are used.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
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
}

const NOWHERE: &str = "no cgroup hierarchy that is mounted has it";

/// The controllers that are nowhere in a table of mounts.
pub(super) fn unmounted(mounts: &str) -> Vec<Missing> {
    let nowhere = Controller::ALL.into_iter().filter(|controller| place_of(mounts, *controller).is_none());
    nowhere.map(|controller| Missing { controller, reason: NOWHERE.to_owned() }).collect()
}

/// Finds the controllers in a table of mounts and makes the installation's group wherever there is one.
pub(super) fn find(mounts: &str, own: &str) -> (Vec<Hierarchy>, Vec<Missing>) {
    let (mut hierarchies, mut missing) = (Vec::<Hierarchy>::new(), Vec::new());
    for controller in Controller::ALL {
        let prepared = place_of(mounts, controller).ok_or_else(|| NOWHERE.to_owned()).and_then(|(version, root)| {
            let own = root.join(own);
            let made = prepare(version, &root, &own, controller);
            made.map(|()| (version, own)).map_err(|error| format!("{}: {error}", root.display()))
        });
        match prepared {
            Ok((version, own)) => match hierarchies.iter_mut().find(|hierarchy| hierarchy.own == own) {
                Some(hierarchy) => hierarchy.controllers.push(controller),
                None => hierarchies.push(Hierarchy { version, own, controllers: vec![controller] }),
            },
            Err(reason) => missing.push(Missing { controller, reason }),
        }
    }
    (hierarchies, missing)
}

/// The hierarchy that has a controller: it is in one only.
fn place_of(mounts: &str, controller: Controller) -> Option<(Version, PathBuf)> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (root, kind, options) = (Path::new(fields.next()?), fields.next()?, fields.next()?);
        let has = |list: &str, separator: char| list.trim().split(separator).any(|name| name == controller.as_str());
        match kind {
            "cgroup" if has(options, ',') => Some((Version::One, root.to_owned())),
            "cgroup2" if has(&fs::read_to_string(root.join("cgroup.controllers")).ok()?, ' ') => {
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
        self.controllers.iter().flat_map(|controller| settings_of(self.version, *controller, limits)).collect()
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
    }
}
