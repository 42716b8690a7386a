//! Whether the host has room for what is to be made: first by what is promised to others ([`super::ledger`]), then by
//! what the kernel says is free at this moment. The warm pool gives way.

use std::num::NonZero;

use model::Shape;

use super::ledger::{DiskPromise, Limits, MONITOR_OVERHEAD_MB, Place, Share};
use super::parts::file_error;
use super::{CreateError, SandboxSpec};
use crate::host::Host;

/// How often a host's memory is promised where nobody says otherwise. Guests take only what they touch, mostly a small
/// part of their memory.
const MEMORY_OVERCOMMIT: u64 = 2;

/// The limits of a host, as they are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Memory of all guests and monitors in MiB; none means twice the host's.
    pub memory_mb: Option<u64>,
    /// vCPUs of all guests for each processor of the host.
    pub vcpu_overcommit: u32,
    /// Sandboxes of one owner.
    pub owner_sandboxes: Option<u64>,
    /// Memory of one owner's running guests and their monitors in MiB.
    pub owner_memory_mb: Option<u64>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { memory_mb: None, vcpu_overcommit: 32, owner_sandboxes: None, owner_memory_mb: None }
    }
}

impl LimitSettings {
    /// The same for this machine.
    pub(crate) fn here(&self) -> Limits {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let twice = || Meminfo::read().total_mb.map_or(u64::MAX, |total_mb| total_mb * MEMORY_OVERCOMMIT);
        Limits {
            memory_mb: self.memory_mb.unwrap_or_else(twice),
            vcpus: processors as u64 * u64::from(self.vcpu_overcommit),
            owner_sandboxes: self.owner_sandboxes,
            owner_memory_mb: self.owner_memory_mb,
        }
    }
}

/// Room for a new sandbox.
pub(super) async fn admit(host: &Host, spec: &SandboxSpec) -> Result<(Place, Share), CreateError> {
    check_disk(host, 0)?;
    first_of_all(host, &spec.shape, || host.ledger.admit(&spec.owner, &spec.shape)).await
}

/// Room for a paused sandbox to run again.
pub(super) async fn readmit(host: &Host, spec: &SandboxSpec) -> Result<Share, CreateError> {
    check_disk(host, 0)?;
    first_of_all(host, &spec.shape, || host.ledger.readmit(&spec.owner, &spec.shape)).await
}

/// Asks again and again, as long as the host is full and the warm pool has something to give up.
async fn first_of_all<T>(
    host: &Host,
    shape: &Shape,
    ask: impl Fn() -> Result<T, super::Refusal>,
) -> Result<T, CreateError> {
    loop {
        let refused = match ask() {
            Ok(room) => match check_memory(shape, host.surroundings.available_memory_mb()) {
                Ok(()) => return Ok(room),
                Err(error) => error,
            },
            Err(refusal) => refusal.into(),
        };
        let is_full = match &refused {
            CreateError::Refused(refusal) => refusal.is_of_host(),
            _ => true,
        };
        if !is_full || !host.pool.give_one_up().await {
            return Err(refused);
        }
    }
}

/// Refuses whatever takes disk space where there is none to spare.
pub(super) fn check_disk(host: &Host, wanted_mb: u64) -> Result<(), CreateError> {
    let (free_mb, reserve_mb) = (free_mb(host)?, host.disk_reserve_mb);
    if is_room(free_mb, reserve_mb, wanted_mb) {
        return Ok(());
    }
    Err(CreateError::NoDiskSpace { directory: host.data_dir.clone(), free_mb, wanted_mb, reserve_mb })
}

fn is_room(free_mb: u64, reserve_mb: u64, wanted_mb: u64) -> bool {
    free_mb > reserve_mb.saturating_add(wanted_mb)
}

/// Keeps others from disk space that is about to be taken.
pub(super) fn promise_disk(host: &Host, wanted_mb: u64) -> Result<DiskPromise, CreateError> {
    let free_mb = free_mb(host)?;
    let promised = host.ledger.promise_disk(wanted_mb, free_mb.saturating_sub(host.disk_reserve_mb));
    promised.ok_or_else(|| CreateError::NoDiskSpace {
        directory: host.data_dir.clone(),
        free_mb,
        wanted_mb,
        reserve_mb: host.disk_reserve_mb,
    })
}

fn free_mb(host: &Host) -> Result<u64, CreateError> {
    let free_mb = host.surroundings.free_disk_mb(&host.data_dir);
    free_mb.map_err(file_error("find the free space of", &host.data_dir))
}

/// A kernel that does not say is not a reason to refuse.
fn check_memory(shape: &Shape, available_mb: Option<u64>) -> Result<(), CreateError> {
    let wanted_mb = u64::from(shape.memory.get());
    match available_mb {
        Some(available_mb) if wanted_mb + MONITOR_OVERHEAD_MB > available_mb => {
            Err(CreateError::NoMemory { wanted_mb, available_mb })
        }
        _ => Ok(()),
    }
}

/// What the kernel says of the host's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Meminfo {
    pub total_mb: Option<u64>,
    pub available_mb: Option<u64>,
}

impl Meminfo {
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mb = |name: &str| {
            let kib = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            kib.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
        };
        Self { total_mb: mb("MemTotal"), available_mb: mb("MemAvailable") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(memory_mb: i64) -> Shape {
        model::ShapeRequest { memory_mb, ..Default::default() }.try_into().unwrap()
    }

    #[test]
    fn memory_beyond_what_is_available_is_refused_with_both_numbers() {
        let meminfo = Meminfo::parse("MemTotal: 9999999 kB\nMemAvailable:    1048576 kB\n");
        assert_eq!(meminfo, Meminfo { total_mb: Some(9765), available_mb: Some(1024) });
        assert!(check_memory(&shape(512), meminfo.available_mb).is_ok());
        let error = check_memory(&shape(1000), meminfo.available_mb).unwrap_err().to_string();
        assert!(error.contains("1000 MB") && error.contains("1024 MB"), "{error}");
        assert!(check_memory(&shape(1000), Meminfo::parse("").available_mb).is_ok());
    }

    #[test]
    fn a_reserve_larger_than_the_disk_leaves_no_room() {
        assert!(is_room(1, 0, 0));
        assert!(!is_room(1, 1, 0));
        assert!(!is_room(1 << 40, 0, u64::MAX));
        assert!(!is_room(1 << 40, u64::MAX, 1));
    }

    #[test]
    fn a_host_promises_twice_its_memory_unless_told_otherwise() {
        let total_mb = Meminfo::read().total_mb.unwrap();
        assert_eq!(LimitSettings::default().here().memory_mb, total_mb * 2);
        let told = LimitSettings { memory_mb: Some(7), vcpu_overcommit: 1, ..LimitSettings::default() };
        let processors = std::thread::available_parallelism().unwrap().get() as u64;
        assert_eq!((told.here().memory_mb, told.here().vcpus), (7, processors));
    }
}
