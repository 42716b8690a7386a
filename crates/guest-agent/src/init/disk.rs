//! The root disk may be larger than the template's image on it: then the file system is grown to it.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

use super::devices::ROOT_DISK;

/// `_IOW('f', 16, __u64)`: makes a mounted ext4 that many blocks large.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// What `/sys/class/block/*/size` counts in, whatever the disk's own sectors are.
const SECTOR: u64 = 512;

/// Grows the root file system to the size of its disk. Does nothing where it has that already.
pub fn fill() -> io::Result<()> {
    let root = File::open("/")?;
    let block_size = u64::try_from(rustix::fs::fstatfs(&root)?.f_bsize).map_err(io::Error::other)?;
    let blocks = size_of(ROOT_DISK)? / block_size;
    // SAFETY: the kernel reads a `__u64` from where the argument points to, and `blocks` outlives the call.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS as _, &raw const blocks) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// In bytes.
fn size_of(device: &str) -> io::Result<u64> {
    let name = device.trim_start_matches("/dev/");
    let sectors = fs::read_to_string(format!("/sys/class/block/{name}/size"))?;
    let sectors = sectors.trim().parse::<u64>().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(sectors * SECTOR)
}
