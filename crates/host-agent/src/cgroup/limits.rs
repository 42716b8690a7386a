//! What a monitor may take, from the shape of its guest. Pure.

/// What a monitor takes beside its guest's memory: its own heap, 64 MiB of translated code, page tables, and files that it
/// reads, which the kernel gives back before it refuses anything.
const OVERHEAD_MB: u64 = 256;

/// Time on processors beside that of its vCPUs, in percent of one: its main loop and its disk threads.
const OVERHEAD_CPU_PERCENT: u64 = 50;

/// Threads beside those of its vCPUs: its main loop and up to 64 that wait for the disk.
const OVERHEAD_THREADS: u64 = 128;

/// The shape of the guest that a group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
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
}
