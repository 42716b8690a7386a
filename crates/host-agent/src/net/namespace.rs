//! Network namespaces: making one on a thread of its own, naming it, entering it, removing it.
//!
//! A thread that made a namespace ends there; none of the runtime's threads ever enters one. Knows nothing of what a
//! sandbox's network consists of.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use tokio::sync::oneshot;

/// Where `ip netns` looks for namespaces.
const DIRECTORY: &str = "/run/netns";
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be made or set up.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The machine refused a thread.
    #[error("starting a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// The thread ended without an answer.
    #[error("the thread of a network namespace ended early")]
    ThreadEnded,
    /// The kernel refused a namespace.
    #[error("making a network namespace")]
    Make(#[source] io::Error),
    /// The namespace could not be opened or entered.
    #[error("opening a network namespace")]
    Open(#[source] io::Error),
    /// The namespace could not get its name.
    #[error("naming a network namespace {}", path.display())]
    Name {
        /// The file that stands for it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kernel setting could not be changed.
    #[error("setting {} to {value}", path.display())]
    Setting {
        /// The setting.
        path: PathBuf,
        /// The value it should have.
        value: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Runs `work` on a new thread in a new network namespace, inside the caller's runtime; the thread ends with it. The
/// namespace lives on while it has a name, a descriptor or a socket.
pub(super) async fn in_new<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<NamespaceError> + Send + 'static,
{
    on_a_thread(leave_for_new, work).await
}

/// As [`in_new`], in a namespace that there is.
pub(super) async fn inside<T, E>(
    namespace: Arc<OwnedFd>,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<NamespaceError> + Send + 'static,
{
    on_a_thread(move || enter(&*namespace).map_err(NamespaceError::Open), work).await
}

async fn on_a_thread<T, E>(
    go: impl FnOnce() -> Result<(), NamespaceError> + Send + 'static,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<NamespaceError> + Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = oneshot::channel();
    let body = move || {
        let _inside = runtime.enter();
        // Nobody listens if the caller was cancelled: then dropping the result is all there is to do.
        let _ = answer.send(go().map_err(E::from).and_then(|()| work()));
    };
    std::thread::Builder::new().name("sp-make-netns".to_owned()).spawn(body).map_err(NamespaceError::Thread)?;
    answered.await.map_err(|_| NamespaceError::ThreadEnded)?
}

/// Moves the calling thread into a new network namespace.
pub(super) fn leave_for_new() -> Result<(), NamespaceError> {
    // SAFETY: a new network namespace leaves the descriptor table shared; only `FILES` would split it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|error| NamespaceError::Make(error.into()))
}

/// Gives the calling thread mounts of its own, a copy of those that are there.
#[cfg(test)]
pub(super) fn leave_for_own_mounts() -> io::Result<()> {
    // SAFETY: new mounts leave the descriptor table shared; only `FILES` would split it.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Moves the calling thread into `namespace`.
pub(super) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// The namespace of the calling thread.
pub(super) fn current() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(OF_THIS_THREAD, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The namespace of this name.
pub(super) fn open(name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Gives the namespace of the calling thread a name that keeps it alive.
pub(super) fn name_current(name: &str) -> Result<(), NamespaceError> {
    let path = path(name);
    let bind = || -> io::Result<()> {
        share_directory()?;
        fs::File::create_new(&path)?;
        Ok(rustix::mount::mount_bind(OF_THIS_THREAD, &path)?)
    };
    bind().map_err(|source| NamespaceError::Name { path: path.clone(), source })
}

/// Makes the directory of names a shared mount of its own, as the first `ip netns add` on a machine would: if that came
/// after ours, it would cover the names that are there, and no name that is covered can be taken away.
fn share_directory() -> io::Result<()> {
    let share = || rustix::mount::mount_change(DIRECTORY, MountPropagationFlags::SHARED);
    // It is no mount yet.
    let is_plain = |shared| shared == Err(rustix::io::Errno::INVAL);
    fs::create_dir_all(DIRECTORY)?;
    let shared = share();
    if !is_plain(shared) {
        return Ok(shared?);
    }
    // Of two that make it one at once, the second must see that it is.
    let directory = fs::File::open(DIRECTORY)?;
    directory.lock()?;
    // This mount would cover names that are there as any other would: it waits until they are gone.
    if is_plain(share()) && names()?.is_empty() {
        rustix::mount::mount_bind(DIRECTORY, DIRECTORY)?;
        share()?;
    }
    Ok(())
}

/// Takes the name of a namespace away, and with it the namespace unless something else holds it.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let path = path(name);
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        // INVAL: the file is there and was never bound.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names of all namespaces on this machine.
pub(super) fn names() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Sets a kernel setting (a path below `/proc/sys`) for the namespace of the calling thread, if it differs: some
/// machines have these read-only and right.
pub(super) fn set(setting: &str, value: &'static str) -> Result<(), NamespaceError> {
    let path = Path::new("/proc/sys").join(setting);
    let change = || match fs::read_to_string(&path)?.trim() == value {
        true => Ok(()),
        false => fs::write(&path, value),
    };
    change().map_err(|source| NamespaceError::Setting { path: path.clone(), value, source })
}

/// Switches IPv6 off in the namespace of the calling thread, for its present and future interfaces.
pub(super) fn disable_ipv6() -> Result<(), NamespaceError> {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    set("net/ipv6/conf/all/disable_ipv6", "1")?;
    set("net/ipv6/conf/default/disable_ipv6", "1")
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
