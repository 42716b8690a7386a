//! Whether the host has room for one more sandbox. Looks only at what the kernel says is free at this moment.

use std::path::Path;

use model::Shape;

use super::CreateError;

/// Memory that a monitor needs beside its guest's.
const MONITOR_OVERHEAD_MB: u64 = 64;

/// Refuses a shape for which there is no room.
pub(super) fn check(shape: &Shape, data_dir: &Path, reserve_mb: u64) -> Result<(), CreateError> {
    check_disk(data_dir, reserve_mb, 0)?;
    check_memory(u64::from(shape.memory.get()), &std::fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

/// Refuses whatever takes disk space where there is none to spare.
pub(super) fn check_disk(data_dir: &Path, reserve_mb: u64, wanted_mb: u64) -> Result<(), CreateError> {
    let file_system = rustix::fs::statvfs(data_dir).map_err(|error| CreateError::File {
        step: "find the free space of",
        path: data_dir.to_owned(),
        source: error.into(),
    })?;
    let free_mb = file_system.f_bavail.saturating_mul(file_system.f_frsize) >> 20;
    if free_mb > reserve_mb.saturating_add(wanted_mb) {
        return Ok(());
    }
    Err(CreateError::NoDiskSpace { directory: data_dir.to_owned(), free_mb, wanted_mb, reserve_mb })
}

fn check_memory(wanted_mb: u64, meminfo: &str) -> Result<(), CreateError> {
    // A kernel that does not say is not a reason to refuse.
    let Some(available_mb) = available_mb(meminfo) else { return Ok(()) };
    if wanted_mb + MONITOR_OVERHEAD_MB <= available_mb {
        return Ok(());
    }
    Err(CreateError::NoMemory { wanted_mb, available_mb })
}

fn available_mb(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    kib.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_what_is_available_is_refused_with_both_numbers() {
        let meminfo = "MemTotal: 9999999 kB\nMemAvailable:    1048576 kB\n";
        assert!(check_memory(512, meminfo).is_ok());
        let error = check_memory(1000, meminfo).unwrap_err().to_string();
        assert!(error.contains("1000 MB") && error.contains("1024 MB"), "{error}");
        assert!(check_memory(1000, "").is_ok());
    }

    #[test]
    fn a_reserve_larger_than_the_disk_leaves_no_room() {
        let directory = tempfile::tempdir().unwrap();
        assert!(check_disk(directory.path(), 0, 0).is_ok());
        assert!(check_disk(directory.path(), 0, u64::MAX).is_err());
        let error = check_disk(directory.path(), u64::MAX, 1).unwrap_err();
        assert!(matches!(error, CreateError::NoDiskSpace { .. }));
    }
}
