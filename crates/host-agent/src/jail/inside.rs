//! What the helper process does: it builds the jail around itself, forks the monitor into it and ends.
//!
//! It runs in a process of its own with a single thread, started by [`super::Jail`].
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use rustix::fs::{FileType, Mode, makedev};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};
use vmm::{Bind, BindAccess, Device, Program};

use super::Landlock;
use super::landlock::{self, Freedom};
use super::order::{MOST_DESCRIPTORS, NetworkNamespace, Order, Report, ResourceLimits, Work};
use crate::egress;

/// A step that failed, with its object.
struct Failure {
    step: String,
    error: io::Error,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let step = step.into();
    move |error| Failure { step, error: error.into() }
}

/// Takes an order from standard input, which must be the socket that [`super::Jail`] made, and carries it out. The
/// process must have only one thread. Returns in the helper; the jailed process never returns from here.
pub fn enter() -> ExitCode {
    let channel = io::stdin();
    match carry_out(channel.as_fd()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(
                channel.as_fd(),
                &Report::Failed { step: failure.step, error: failure.error.raw_os_error().unwrap_or(libc::EIO) },
            );
            ExitCode::FAILURE
        }
    }
}

fn report(channel: impl AsFd, report: &Report) {
    if let Ok(message) = serde_json::to_vec(report) {
        // Fails only when the host agent is gone; then there is nobody to tell.
        let _ = rustix::net::send(channel, &message, SendFlags::NOSIGNAL);
    }
}

fn carry_out(channel: impl AsFd) -> Result<(), Failure> {
    close_inherited().map_err(failed("close inherited descriptors"))?;
    let (order, mut descriptors) = receive(&channel).map_err(failed("receive the order"))?;
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    match order.network {
        NetworkNamespace::Empty => namespaces |= UnshareFlags::NEWNET,
        NetworkNamespace::Given => enter_network(&mut descriptors)?,
    }
    // SAFETY: this process has one thread and shares no memory or descriptors table with another.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.map_err(failed("make the jail's namespaces"))?;
    build_root(&order)?;
    // SAFETY: this process has one thread, so the child may do anything that a program may.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork into the jail")(io::Error::last_os_error())),
        0 => {
            let failure = become_program(&channel, order, descriptors);
            let error = failure.error.raw_os_error().unwrap_or(libc::EIO);
            report(&channel, &Report::Failed { step: failure.step, error });
            std::process::exit(1);
        }
        pid => {
            report(&channel, &Report::Forked { pid });
            Ok(())
        }
    }
}

/// Moves into the network namespace that came with the order.
fn enter_network(descriptors: &mut Vec<OwnedFd>) -> Result<(), Failure> {
    let step = "enter the sandbox's network namespace";
    if descriptors.len() < 2 {
        return Err(failed(step)(io::Error::from_raw_os_error(libc::EBADF)));
    }
    let namespace = descriptors.remove(1);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(failed(step))
}

/// Whatever the server itself inherited from its own parent is nothing for a jail.
fn close_inherited() -> io::Result<()> {
    let (first, last) = (3, libc::c_uint::MAX);
    // SAFETY: this is the first that the process does: nothing in it owns a descriptor yet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn receive(channel: impl AsFd) -> io::Result<(Order, Vec<OwnedFd>)> {
    let mut buffer = vec![0; 64 * 1024];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut buffer)];
    let message = rustix::net::recvmsg(channel, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((serde_json::from_slice(&buffer[..message.bytes])?, descriptors))
}

/// Makes the order's root, read-only, the whole file system of this mount namespace.
fn build_root(order: &Order) -> Result<(), Failure> {
    let root = &order.root;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("separate the jail's mounts"))?;
    bind_read_only(root, root)?;
    make_devices(&inside(root, Path::new("/dev")), order)?;
    for bind in &order.binds {
        show(bind, root, order.uid)?;
    }
    std::env::set_current_dir(root).map_err(failed(format!("enter {}", root.display())))?;
    rustix::process::pivot_root(".", ".").map_err(failed("make the jail the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("let go of the host's file system"))?;
    std::env::set_current_dir("/").map_err(failed("enter the jail"))
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A file that the program may write is its group's, not its own: it could give its own to others.
fn show(bind: &Bind, root: &Path, gid: u32) -> Result<(), Failure> {
    let (host, to) = (&bind.host, inside(root, &bind.inside));
    if bind.access == BindAccess::ReadOnly {
        return bind_read_only(host, &to);
    }
    let step = || format!("show {} in the jail", host.display());
    std::os::unix::fs::chown(host, Some(0), Some(gid)).map_err(failed(step()))?;
    std::fs::set_permissions(host, std::fs::Permissions::from_mode(0o660)).map_err(failed(step()))?;
    rustix::mount::mount_bind(host, &to).map_err(failed(step()))?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount(&to, flags, c"").map_err(failed(step()))
}

fn bind_read_only(host: &Path, to: &Path) -> Result<(), Failure> {
    let step = || format!("show {} in the jail", host.display());
    rustix::mount::mount_bind(host, to).map_err(failed(step()))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(to, flags, c"").map_err(failed(step()))
}

/// A file system of its own with the few devices allowed; then nothing more can be made there.
fn make_devices(directory: &Path, order: &Order) -> Result<(), Failure> {
    let step = || "make the jail's devices".to_owned();
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("none", directory, c"tmpfs", flags, c"size=64k,mode=0755").map_err(failed(step()))?;
    let node = |name: &str, device: u64, mode: u32| -> io::Result<PathBuf> {
        let path = directory.join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(mode), device)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(path)
    };
    node("null", makedev(1, 3), 0o666).map_err(failed(step()))?;
    for device in &order.devices {
        let Device::Kvm = device;
        let number = std::fs::metadata("/dev/kvm").map_err(failed("find /dev/kvm"))?.rdev();
        let path = node("kvm", number, 0o600).map_err(failed(step()))?;
        std::os::unix::fs::chown(&path, Some(order.uid), Some(order.uid)).map_err(failed(step()))?;
    }
    rustix::mount::mount_remount(directory, flags | MountFlags::RDONLY, c"").map_err(failed(step()))
}

/// Waits for the word to go, gives up all rights and becomes what is wanted. Returns only when that failed.
fn become_program(channel: impl AsFd, order: Order, descriptors: Vec<OwnedFd>) -> Failure {
    let result = rustix::process::setsid()
        .map_err(failed("make a session"))
        .and_then(|_| wait_for_go(&channel))
        .and_then(|()| limit(&order.limits))
        .and_then(|()| drop_rights(order.uid))
        .and_then(|()| restrict_files(&order));
    match (result, &order.work) {
        (Err(failure), _) => failure,
        (Ok(()), Work::Program { path, arguments }) => match pass_on(descriptors) {
            Ok((stderr, _inherited)) => exec(path, arguments, stderr),
            Err(failure) => failure,
        },
        (Ok(()), Work::Egress { .. }) => stay(descriptors),
    }
}

fn wait_for_go(channel: impl AsFd) -> Result<(), Failure> {
    let mut word = [0; 8];
    match rustix::net::recv(channel, &mut word[..], RecvFlags::empty()) {
        Ok((1.., _)) => Ok(()),
        // The host agent is gone and has not recorded this process: it must not be.
        Ok(_) => Err(failed("wait for the host agent")(io::Error::from_raw_os_error(libc::EPIPE))),
        Err(error) => Err(failed("wait for the host agent")(error)),
    }
}

/// Descriptors that a monitor may have open: far more than it needs.
const MOST_OPEN: u64 = 512;

fn limit(limits: &ResourceLimits) -> Result<(), Failure> {
    let all = [
        (Resource::Core, 0),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, MOST_OPEN),
        (Resource::Nproc, limits.threads),
        (Resource::Fsize, limits.file_bytes),
    ];
    all.into_iter().try_for_each(|(resource, most)| {
        let both = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::setrlimit(resource, both).map_err(failed(format!("limit {resource:?} to {most}")))
    })
}

/// The files and devices that the program may write are all that it may.
fn restrict_files(order: &Order) -> Result<(), Failure> {
    if order.landlock == Landlock::Absent {
        return Ok(());
    }
    let writable =
        order.binds.iter().filter(|bind| bind.access == BindAccess::Writable).map(|bind| bind.inside.clone());
    let devices = std::iter::once("/dev/null").chain(order.devices.iter().map(|Device::Kvm| "/dev/kvm"));
    let ports = match &order.work {
        Work::Program { .. } => Vec::new(),
        Work::Egress { ports } => ports.clone(),
    };
    let freedom = Freedom { writable: writable.chain(devices.map(PathBuf::from)).collect(), ports };
    landlock::restrict(&freedom).map_err(failed("restrict the jail by Landlock"))
}

/// uid and gid without any privilege, and no way to get one back.
fn drop_rights(uid: u32) -> Result<(), Failure> {
    for number in 0..64 {
        if let Some(capability) = CapabilitySet::from_bits(1 << number) {
            // EINVAL: the kernel does not know this one.
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(failed("empty the capability bounding set")(error)),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    rustix::thread::set_thread_groups(&[]).map_err(failed("leave all groups"))?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("become the jail's group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("become the jail's user"))?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(failed("give up all capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("set no_new_privs"))
}

/// Gives the descriptors the numbers that the program's arguments name. All others close at exec.
fn pass_on(descriptors: Vec<OwnedFd>) -> Result<(OwnedFd, Vec<OwnedFd>), Failure> {
    let step = "pass descriptors on";
    let mut descriptors = descriptors.into_iter();
    let stderr = descriptors.next().ok_or_else(|| failed(step)(io::Error::from_raw_os_error(libc::EBADF)))?;
    let mut inherited = Vec::new();
    for (descriptor, number) in descriptors.zip(Program::FIRST_DESCRIPTOR..) {
        // The lowest free number from this one on; all are free here, so it is this one.
        let copy = rustix::io::fcntl_dupfd_cloexec(&descriptor, number).map_err(failed(step))?;
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).map_err(failed(step))?;
        inherited.push(copy);
    }
    Ok((stderr, inherited))
}

/// Lets go of the channel, which tells the host agent that all went well, and does the work. Returns when that failed.
fn stay(descriptors: Vec<OwnedFd>) -> Failure {
    let step = "begin to resolve names";
    let Ok([null, task, questions, question_streams, connections, tunnels, trusted, refused]) =
        <[OwnedFd; 8]>::try_from(descriptors)
    else {
        return failed(step)(io::Error::from_raw_os_error(libc::EBADF));
    };
    match rustix::stdio::dup2_stdin(&null) {
        Ok(()) => {
            let descriptors =
                egress::Descriptors { task, questions, question_streams, connections, tunnels, trusted, refused };
            failed(step)(egress::serve(descriptors))
        }
        Err(error) => failed(step)(error),
    }
}

fn exec(path: &Path, arguments: &[OsString], stderr: OwnedFd) -> Failure {
    let stdout = match stderr.try_clone() {
        Ok(stdout) => stdout,
        Err(error) => return failed("pass descriptors on")(error),
    };
    let error =
        Command::new(path).args(arguments).env_clear().stdin(Stdio::null()).stdout(stdout).stderr(stderr).exec();
    failed(format!("start {}", path.display()))(error)
}
