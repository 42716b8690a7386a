//! What a monitor may take, from the shape of its guest. Pure.

use vmm::DiskLimits;

/// What a monitor takes beside its guest's memory: its own heap, 64 MiB of translated code, page tables, and files that it
/// reads, which the kernel gives back before it refuses anything.
const OVERHEAD_MB: u64 = 256;

/// Time on processors beside that of its vCPUs, in percent of one: its main loop and its disk threads.
const OVERHEAD_CPU_PERCENT: u64 = 50;

/// Threads beside those of its vCPUs: its main loop and up to 64 that wait for the disk.
const OVERHEAD_THREADS: u64 = 128;

/// How much more than its guest's requests a monitor may do with the disk. The monitor holds its guest to them itself; this
/// is for one that was taken over, and an honest one is never to run into it: the kernel would hold its writes back while
/// others wait for the same journal.
const OVERHEAD_DISK: u64 = 2;

/// The shape of the guest that a group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// What its disk may do, where it has one.
    pub disk: Option<DiskLimits>,
}

impl CgroupLimits {
    /// Memory of guest and monitor.
    pub fn memory_bytes(&self) -> u64 {
        (u64::from(self.memory_mb) + OVERHEAD_MB) << 20
    }

    /// Time on processors, in percent of one.
    pub fn cpu_percent(&self) -> u64 {
        100 * u64::from(self.vcpus) + OVERHEAD_CPU_PERCENT
    }

    /// Threads, the main one among them.
    pub fn threads(&self) -> u64 {
        u64::from(self.vcpus) + OVERHEAD_THREADS
    }

    /// Bytes and requests a second, of reading, and as many of writing.
    pub fn disk(&self) -> Option<(u64, u64)> {
        let limits = self.disk?;
        let operations = u64::from(limits.operations_per_second);
        Some((limits.bytes_per_second() * OVERHEAD_DISK, operations * OVERHEAD_DISK))
    }
}
