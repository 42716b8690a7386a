//! Randomness from the host, for a kernel whose twin may run elsewhere with the same state.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOW('R', 0x03, int[2])`: adds bytes to the pool and credits them.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`: every generator takes a new key from the pool at once.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// The most bytes that are taken at once.
pub const LIMIT: usize = 256;

/// The kernel's `struct rand_pool_info` with room for [`LIMIT`] bytes.
#[repr(C)]
struct PoolInfo {
    entropy_count: libc::c_int,
    size: libc::c_int,
    bytes: [u8; LIMIT],
}

/// Mixes `bytes` into the kernel's pool as true randomness and makes its generators start anew from there.
pub fn reseed(bytes: &[u8]) -> io::Result<()> {
    let mut info = PoolInfo { entropy_count: 0, size: 0, bytes: [0; LIMIT] };
    info.bytes.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    let size = libc::c_int::try_from(bytes.len()).map_err(io::Error::other)?;
    (info.entropy_count, info.size) = (size * 8, size);
    let device = File::open("/dev/urandom")?;
    // SAFETY: the kernel reads a `struct rand_pool_info` with `size` bytes after it, which `PoolInfo` has room for.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const info) })?;
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
