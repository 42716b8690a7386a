//! Landlock: the kernel refuses what the jail's mounts already leave no way to, by a mechanism of its own. A process that
//! found a way round its mounts would still open, write, connect and signal nothing.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// What may be done with files at all, by the version of the kernel's interface that first knew of it.
const KINDS_OF_ACCESS: [(i32, u64); 4] = [(1, (1 << 13) - 1), (2, 1 << 13), (3, TRUNCATE), (5, IOCTL_DEV)];

const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 1 << 1;
const SINCE_NET: i32 = 4;
/// Abstract unix sockets and signals, to processes outside.
const SCOPES: u64 = 0b11;
const SINCE_SCOPES: i32 = 6;

const RULE_PATH: libc::c_int = 1;
const RULE_PORT: libc::c_int = 2;
const ASK_VERSION: libc::c_uint = 1;

/// The kernel's `struct landlock_ruleset_attr`.
#[repr(C)]
struct Ruleset {
    files: u64,
    net: u64,
    scoped: u64,
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathRule {
    allowed: u64,
    parent: libc::c_int,
}

/// The kernel's `struct landlock_net_port_attr`.
#[repr(C)]
struct PortRule {
    allowed: u64,
    port: u64,
}

/// What stays possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Freedom {
    /// Files that may be written; all others that can be seen may be read and executed.
    pub writable: Vec<std::path::PathBuf>,
    /// Ports to which TCP connections may be made.
    pub ports: Vec<u16>,
}

/// The version of the kernel's interface, if it has one.
pub(super) fn abi() -> io::Result<i32> {
    // SAFETY: with this flag the call takes no attributes and only answers with a number.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0_usize, ASK_VERSION) };
    match i32::try_from(answer) {
        Ok(version) if version > 0 => Ok(version),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes everything else from the calling thread and from what it will start, for good. It must have `no_new_privs`.
pub(super) fn restrict(freedom: &Freedom) -> io::Result<()> {
    let abi = abi()?;
    let files = KINDS_OF_ACCESS.iter().filter(|(since, _)| *since <= abi).fold(0, |all, (_, kind)| all | kind);
    let ruleset = Ruleset {
        files,
        net: if abi >= SINCE_NET { BIND_TCP | CONNECT_TCP } else { 0 },
        scoped: if abi >= SINCE_SCOPES { SCOPES } else { 0 },
    };
    // SAFETY: the attributes outlive the call, which is told their size.
    let created = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size_of::<Ruleset>(), 0 as libc::c_uint)
    };
    let created = checked(created)?;
    // SAFETY: the descriptor is new and nobody else's.
    let rules = unsafe { OwnedFd::from_raw_fd(created) };
    allow(&rules, Path::new("/"), EXECUTE | READ_FILE | READ_DIR)?;
    for path in &freedom.writable {
        allow(&rules, path, files & (READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV))?;
    }
    if abi >= SINCE_NET {
        for port in &freedom.ports {
            allow_port(&rules, *port)?;
        }
    }
    // SAFETY: takes a descriptor and flags.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0 as libc::c_uint) };
    checked(result).map(drop)
}

fn allow(rules: &OwnedFd, path: &Path, allowed: u64) -> io::Result<()> {
    let parent = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let rule = PathRule { allowed, parent: parent.as_raw_fd() };
    add(rules, RULE_PATH, &rule)
}

fn allow_port(rules: &OwnedFd, port: u16) -> io::Result<()> {
    add(rules, RULE_PORT, &PortRule { allowed: CONNECT_TCP, port: port.into() })
}

fn add<T>(rules: &OwnedFd, kind: libc::c_int, rule: &T) -> io::Result<()> {
    // SAFETY: the rule is of the kind that is named, and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), kind, std::ptr::from_ref(rule), 0 as libc::c_uint)
    };
    checked(result).map(drop)
}

fn checked(result: libc::c_long) -> io::Result<i32> {
    i32::try_from(result).ok().filter(|number| *number >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    /// On a thread of its own, which alone is restricted.
    fn restricted<T: Send>(freedom: &Freedom, work: impl FnOnce() -> T + Send) -> T {
        let body = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            restrict(freedom).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(body).join()).unwrap()
    }

    #[test]
    fn only_named_files_can_be_written_and_none_made_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (named, other) = (directory.path().join("named"), directory.path().join("other"));
        fs::write(&named, "1").unwrap();
        fs::write(&other, "1").unwrap();
        let freedom = Freedom { writable: vec![named.clone()], ports: vec![] };
        let denied =
            |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        let refused = restricted(&freedom, || {
            fs::write(&named, "2").unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "1", "what can be seen can be read");
            [
                fs::write(&other, "2"),
                fs::write(directory.path().join("new"), ""),
                fs::remove_file(&named),
                fs::create_dir(directory.path().join("d")),
            ]
            .map(denied)
        });
        assert_eq!(refused, [true; 4]);
        assert_eq!(fs::read_to_string(&named).unwrap(), "2");
        fs::write(&other, "2").unwrap();
    }

    #[test]
    fn only_named_ports_can_be_connected_to_and_none_listened_at() {
        if abi().unwrap() < SINCE_NET {
            eprintln!("this kernel's Landlock does not know of connections: not tested");
            return;
        }
        let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let freedom = Freedom { writable: vec![], ports: vec![addresses[0].port()] };
        let results = restricted(&freedom, || {
            [
                TcpStream::connect(addresses[0]).is_ok(),
                TcpStream::connect(addresses[1]).is_ok(),
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).is_ok(),
            ]
        });
        assert_eq!(results, [true, false, false]);
    }
}
