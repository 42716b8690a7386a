//! Control groups: what a monitor may take of the host's memory, processors, process numbers and disk throughput, whatever
//! its guest does.
//!
//! One group for each network slot, under one for the installation, in every hierarchy that has a controller of use. Both
//! versions do, also mixed. Knows nothing of what runs in a group.

mod block_device;
mod hierarchy;
mod limits;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::InstanceId;

pub use hierarchy::{Controller, Missing};
pub use limits::CgroupLimits;

use crate::net::Slot;
use block_device::BlockDevice;
use hierarchy::Hierarchy;

/// A group can be removed a moment after its last process has ended: so often that is tried, with [`PAUSE`] between.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(4);

/// The groups of one installation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// The installation's own group in each hierarchy.
    hierarchies: Arc<[Hierarchy]>,
}

/// The groups around one monitor; they need not be there yet.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// In each hierarchy.
    parts: Vec<(Hierarchy, PathBuf)>,
    limits: CgroupLimits,
}

impl Cgroups {
    /// Makes the installation's group wherever a controller of use is mounted, and says which controllers cannot be had.
    /// Sandboxes are in `data_dir`.
    pub fn open(instance: &InstanceId, data_dir: &Path) -> (Self, Vec<Missing>) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        // What the kernel says nothing of is not limited.
        let disk = BlockDevice::under(data_dir).ok().flatten();
        Self::in_mounts(instance, &mounts, disk.as_ref())
    }

    /// No groups at all.
    pub fn none() -> Self {
        Self { hierarchies: Arc::new([]) }
    }

    fn in_mounts(instance: &InstanceId, mounts: &str, disk: Option<&BlockDevice>) -> (Self, Vec<Missing>) {
        let (hierarchies, missing) = hierarchy::find(mounts, &format!("sandpiper-{instance}"), disk);
        (Self { hierarchies: hierarchies.into() }, missing)
    }

    /// The groups for the monitor of a slot. Nothing is made.
    pub fn of(&self, slot: Slot, limits: CgroupLimits) -> Cgroup {
        self.named(&slot.to_string(), limits)
    }

    /// The groups for the resolver and proxy of a slot. Nothing is made.
    pub fn of_egress(&self, slot: Slot, limits: CgroupLimits) -> Cgroup {
        self.named(&format!("{slot}-egress"), limits)
    }

    fn named(&self, name: &str, limits: CgroupLimits) -> Cgroup {
        let part = |hierarchy: &Hierarchy| (hierarchy.clone(), hierarchy.own.join(name));
        Cgroup { parts: self.hierarchies.iter().map(part).collect(), limits }
    }

    /// Removes every group in which nothing runs: what a crash has left. Those of monitors that live stay.
    pub fn sweep(&self) {
        for directory in self.hierarchies.iter().flat_map(|hierarchy| groups_in(&hierarchy.own)) {
            // Fails where something runs in it.
            let _ = fs::remove_dir(directory);
        }
    }

    /// Removes the installation's own groups, where nothing is left in them.
    pub fn close(&self) {
        self.sweep();
        for hierarchy in self.hierarchies.iter() {
            let _ = fs::remove_dir(&hierarchy.own);
        }
    }
}

/// The controllers that no hierarchy in a table of mounts has. Nothing is made.
pub fn unmounted(mounts: &str) -> Vec<Missing> {
    hierarchy::unmounted(mounts)
}

fn groups_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

impl Cgroup {
    /// Makes the groups, with their limits. Those that are there get the limits anew.
    pub fn make(&self) -> io::Result<()> {
        for (hierarchy, directory) in &self.parts {
            match fs::create_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(named(directory)(error)),
                _ => {}
            }
            for (file, value) in hierarchy.settings(&self.limits) {
                let path = directory.join(file);
                fs::write(&path, value).map_err(named(&path))?;
            }
        }
        Ok(())
    }

    /// Moves a process in, with all that it starts from then on.
    pub fn enter(&self, pid: i32) -> io::Result<()> {
        for (_, directory) in &self.parts {
            let path = directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(named(&path))?;
        }
        Ok(())
    }

    /// Removes the groups, whose processes must have ended. May be repeated.
    pub async fn remove(&self) -> io::Result<()> {
        for (_, directory) in &self.parts {
            let mut attempts = 0..ATTEMPTS;
            loop {
                match fs::remove_dir(directory) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempts.next().is_some() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(directory)(error)),
                    _ => break,
                }
            }
        }
        Ok(())
    }
}

fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
