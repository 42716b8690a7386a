//! The file systems of a sandbox.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, mount, mount_move};

use super::InitError;
use super::devices::ROOT_DISK;

const NEW_ROOT: &str = "/newroot";
/// Mounted before the root disk is found, and taken along to it.
const KERNEL: [(&str, &str, MountFlags); 3] = [
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("sysfs", "/sys", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
    ("devtmpfs", "/dev", MountFlags::NOSUID),
];

/// What only the kernel has to offer.
pub fn mount_kernel_file_systems() -> Result<(), InitError> {
    KERNEL.iter().try_for_each(|(kind, target, flags)| mount_one(kind, kind, target, *flags, None))
}

/// Makes the root disk the root, and takes the kernel's file systems along.
pub fn switch_to_root_disk() -> Result<(), InitError> {
    // Reading must not write: every changed block of the template costs the sandbox's overlay. Nor is a file's time a
    // reason to write at once.
    mount_one(ROOT_DISK, "ext4", NEW_ROOT, MountFlags::NOATIME | MountFlags::LAZYTIME, None)?;
    for (kind, target, _) in KERNEL {
        let moved = format!("{NEW_ROOT}{target}");
        let done = make_directory(&moved).and_then(|()| Ok(mount_move(target, &moved)?));
        done.map_err(|source| InitError::Mount { what: kind, target: moved, source })?;
    }
    enter_new_root().map_err(|source| InitError::SwitchRoot { target: NEW_ROOT, source })
}

fn enter_new_root() -> io::Result<()> {
    rustix::process::chdir(NEW_ROOT)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// What programs expect besides.
pub fn mount_run_time_file_systems() -> Result<(), InitError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount_one(
        "devpts",
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"gid=5,mode=620,ptmxmode=666"),
    )?;
    mount_one("tmpfs", "tmpfs", "/dev/shm", safe, Some(c"mode=1777"))?;
    mount_one("tmpfs", "tmpfs", "/run", safe, Some(c"mode=755"))?;
    mount_one("tmpfs", "tmpfs", "/tmp", safe, Some(c"mode=1777"))?;
    mount_one("cgroup2", "cgroup2", "/sys/fs/cgroup", safe | MountFlags::NOEXEC, None)?;
    // Shells lean on these; devtmpfs has only devices.
    for (link, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = symlink(format!("/proc/self/{target}"), format!("/dev/{link}"));
    }
    Ok(())
}

fn mount_one(
    what: &'static str,
    kind: &str,
    target: &str,
    flags: MountFlags,
    options: Option<&std::ffi::CStr>,
) -> Result<(), InitError> {
    let done = make_directory(target).and_then(|()| Ok(mount(what, target, kind, flags, options)?));
    done.map_err(|source| InitError::Mount { what, target: target.to_owned(), source })
}

/// Images made from containers lack some.
fn make_directory(path: &str) -> io::Result<()> {
    if Path::new(path).is_dir() { Ok(()) } else { fs::create_dir_all(path) }
}
