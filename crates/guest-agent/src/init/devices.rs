//! From the modules in the initramfs to the root disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::InitError;
use crate::log;

/// Where the root file system is.
pub const ROOT_DISK: &str = "/dev/vda";
const DEVICES: &str = "/dev";
const MODULES: &str = "/modules";
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads the modules in the order of their names, which is that of their needs, and frees the memory of their files.
/// One that fails is told and left out: whether it was needed shows later.
pub fn load_modules() {
    let mut modules: Vec<PathBuf> =
        fs::read_dir(MODULES).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    modules.sort_unstable();
    for module in modules {
        match load(&module) {
            Ok(()) => drop(fs::remove_file(&module)),
            Err(error) => log::line(format_args!("cannot load {}: {error}", module.display())),
        }
    }
}

fn load(module: &Path) -> io::Result<()> {
    match rustix::system::finit_module(File::open(module)?, c"", 0) {
        // Loaded already, or built in.
        Err(Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// Drivers find their devices in their own time.
pub fn wait_for_root_disk() -> Result<(), InitError> {
    let deadline = Instant::now() + PATIENCE;
    let watch = watch().map_err(|source| InitError::Watch { directory: DEVICES, source })?;
    while !Path::new(ROOT_DISK).exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(InitError::NoDisk { device: ROOT_DISK, seconds: PATIENCE.as_secs() });
        }
        next_event(&watch, left).map_err(|source| InitError::Watch { directory: DEVICES, source })?;
    }
    Ok(())
}

fn watch() -> io::Result<File> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, DEVICES, WatchFlags::CREATE)?;
    Ok(watch.into())
}

fn next_event(mut watch: &File, left: Duration) -> io::Result<()> {
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&left))? > 0 {
        // What it says does not matter: the disk is there or it is not.
        let _ = io::Read::read(&mut watch, &mut [0; 4096])?;
    }
    Ok(())
}
