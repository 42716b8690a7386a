//! What programs take for the name of this run of the kernel. The kernel's own cannot be changed once it was read, so a
//! system that goes on beside its twin has another one over it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

/// Where programs look.
const SHOWN: &str = "/proc/sys/kernel/random/boot_id";
/// What is shown there.
const OWN: &str = "/run/sandpiper-boot-id";

/// Puts `id` in the place of the kernel's.
pub fn assume(id: &str) -> io::Result<()> {
    // A twin of a twin has one already.
    match unmount(SHOWN, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let own = Path::new(OWN);
    match fs::remove_file(own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(own, format!("{id}\n"))?;
    mount_bind(own, SHOWN)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount_remount(SHOWN, flags, c"")?)
}

/// Whether a text can be such an id.
pub fn is_valid(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::is_valid;

    #[test]
    fn only_ids_are_shown() {
        assert!(is_valid("0b5a1c1e-6f3d-4b9a-8a31-5f4f0a4c8f10"));
        assert!(!is_valid("") && !is_valid(&"x".repeat(36)) && !is_valid("0b5a1c1e"));
    }
}
