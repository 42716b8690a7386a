//! The driver for QEMU's `microvm` machine: the one monitor that runs the same guest with and without hardware
//! virtualisation. Knows command lines and QMP; knows nothing of jails, networks or sandboxes.
//!
//! Files and devices reach QEMU as descriptors, because its process owns nothing and sees only its own libraries.

mod bundle;
mod command;
mod qmp;
mod tsc;
mod vm;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::BoxFuture;

pub use bundle::{Bundle, BundleError, MINIMUM_VERSION, QemuVersion};

use crate::{Accelerator, AcceleratorChoice, BootError, BootSpec, BoundedLog, Launcher, Vm, Vmm, VmmInfo};
use command::CommandLine;
use vm::{QemuVm, Stderr};

/// QEMU, copied to a place of its own and ready to start virtual machines.
#[derive(Debug)]
pub struct Qemu {
    /// Started under TCG, and under KVM where there is no smaller build for it.
    bundle: Bundle,
    choice: AcceleratorChoice,
    /// Set once a guest on KVM has not answered.
    fell_back: AtomicBool,
    /// The rate of the host's time stamp counter, which guests see under TCG and cannot measure on a busy host.
    tsc_khz: u64,
}

impl Qemu {
    /// Takes QEMU from the machine into `data_dir/vmm/<digest>/`, where a package upgrade cannot change it. Blocks for
    /// a tenth of a second, for the measurement of the time stamp counter.
    pub fn open(data_dir: &Path, binary: Option<&Path>, choice: AcceleratorChoice) -> Result<Self, BundleError> {
        let bundle = Bundle::open(data_dir, binary, choice.accelerator)?;
        Ok(Self { bundle, choice, fell_back: AtomicBool::new(false), tsc_khz: tsc::measure_khz() })
    }

    fn accelerator(&self) -> Accelerator {
        if self.fell_back.load(Ordering::Relaxed) { Accelerator::Tcg } else { self.choice.accelerator }
    }

    async fn boot_one(&self, spec: BootSpec, launcher: &dyn Launcher) -> Result<Arc<dyn Vm>, BootError> {
        let prepare = |what| move |source| BootError::Prepare { what, source };
        let qmp_socket = spec.directory.join("qmp.sock");
        let console_socket = spec.directory.join("console.sock");
        let qmp_listener = listen(&qmp_socket).map_err(prepare("the control socket"))?;
        let console_listener = listen(&console_socket).map_err(prepare("the console socket"))?;
        let (stderr_reader, stderr_writer) = io::pipe().map_err(prepare("the log"))?;

        let program = CommandLine {
            bundle: &self.bundle,
            accelerator: self.accelerator(),
            tsc_khz: self.tsc_khz,
            spec,
            qmp: qmp_listener.into(),
            console: console_listener.into(),
            stderr: stderr_writer.into(),
        }
        .into_program();
        let process = launcher.launch(program).await?;
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(stderr_reader.into());
        let log = BoundedLog::default();
        let following = log.follow(reader.map_err(prepare("the log"))?);
        QemuVm::connect(process, &qmp_socket, &console_socket, Stderr { log, following }).await
    }
}

impl Vmm for Qemu {
    fn info(&self) -> VmmInfo {
        VmmInfo { version: format!("QEMU {}", self.bundle.version()), accelerator: self.accelerator() }
    }

    fn boot<'a>(&'a self, spec: BootSpec, launcher: &'a dyn Launcher) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>> {
        Box::pin(self.boot_one(spec, launcher))
    }

    fn distrust_hardware(&self) -> bool {
        // The smaller build for KVM has no translator, so falling back is possible only on the full one.
        let can = self.choice.may_fall_back && self.bundle.can_translate();
        can && !self.fell_back.swap(true, Ordering::Relaxed)
    }
}

/// Binds a unix socket of any path length: the kernel's limit of 107 bytes is met through the directory's descriptor.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    let (_directory, short) = short_socket_path(path)?;
    UnixListener::bind(short)
}

/// A name under 108 bytes for a socket, valid while the returned descriptor is open.
fn short_socket_path(path: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let directory = std::fs::File::open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, short))
}
