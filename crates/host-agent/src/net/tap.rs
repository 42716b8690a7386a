//! The tap device: opened in the namespace of the calling thread, gone with the last copy of its descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Updater, ioctl, opcode};

/// What the kernel's `struct ifreq` holds for this request: a name and flags, padded to its 40 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

const SET_INTERFACE: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 202);

/// Ethernet frames without a leading protocol number, each behind a virtio-net header, as the VMM wants them.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Makes the tap `name`.
pub(super) fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = InterfaceRequest { name: [0; 16], flags: FLAGS as u16, padding: [0; 22] };
    let terminated = request.name.len() - 1;
    let room = request.name[..terminated].get_mut(..name.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`; `InterfaceRequest` has its size and layout and outlives
    // the call.
    unsafe { ioctl(&fd, Updater::<SET_INTERFACE, _>::new(&mut request)) }?;
    Ok(fd)
}
