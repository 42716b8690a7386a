//! The driver for QEMU's `microvm` machine: the one monitor that runs the same guest with and without hardware
//! virtualisation. Knows command lines and QMP; knows nothing of jails, networks or sandboxes.
//!
//! Files and devices reach QEMU as descriptors, because its process owns nothing and sees only its own libraries.
//!
//! A QEMU outlives the program that started it. Its control socket and its console take another client after the first
//! is gone, and its standard error is a named pipe that another reader may open: what is written while there is none is
//! lost, and QEMU, which ignores the signal for that, does not notice.

mod adopt;
mod bundle;
mod command;
mod log_pipe;
mod merge;
mod overlay;
mod qmp;
mod tsc;
mod vm;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use model::DiskMb;

#[cfg(fuzzing)]
pub use qmp::fuzzing;

pub use bundle::{Bundle, BundleError, MINIMUM_VERSION, QemuVersion};

use crate::{
    Accelerator, AcceleratorChoice, AdoptError, AdoptSpec, BootError, BootSpec, BoundedLog, Launcher, Machine,
    OverlayError, Platform, ProcessIdentity, RestoreSpec, Vm, Vmm, VmmInfo, VmmProcess,
};
use command::{CommandLine, Start};
use vm::{QemuVm, Stderr};

/// The control socket's name in a machine's directory.
const QMP_SOCKET: &str = "qmp.sock";

/// The name of the guest's console there.
const CONSOLE_SOCKET: &str = "console.sock";

/// What is known of the accelerator that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Hardware virtualisation looks usable, and no guest has answered on it yet.
    Unproven,
    /// There is nothing to find out any more.
    Settled,
    /// No guest answered on it.
    FellBack,
}

/// QEMU, copied to a place of its own and ready to start virtual machines.
#[derive(Debug)]
pub struct Qemu {
    /// For the accelerator that was chosen.
    bundle: Bundle,
    /// For TCG, where that is what may be fallen back to.
    fallback: Option<Bundle>,
    choice: AcceleratorChoice,
    trust: Mutex<Trust>,
    /// The rate of the host's time stamp counter, which guests see under TCG and cannot measure on a busy host.
    tsc_khz: u64,
    /// Where copies of QEMU are kept, for states that were saved with an earlier one.
    data_dir: PathBuf,
}

impl Qemu {
    /// Takes QEMU from the machine into `data_dir/vmm/<digest>/`, where a package upgrade cannot change it. Blocks for
    /// a tenth of a second, for the measurement of the time stamp counter.
    pub fn open(data_dir: &Path, binary: Option<&Path>, choice: AcceleratorChoice) -> Result<Self, BundleError> {
        let bundle = Bundle::open(data_dir, binary, choice.accelerator)?;
        let fallback =
            if choice.may_fall_back { Some(Bundle::open(data_dir, binary, Accelerator::Tcg)?) } else { None };
        let trust = Mutex::new(if choice.may_fall_back { Trust::Unproven } else { Trust::Settled });
        let data_dir = data_dir.to_owned();
        Ok(Self { bundle, fallback, choice, trust, tsc_khz: tsc::measure_khz(), data_dir })
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next boot is on.
    fn current(&self) -> (Accelerator, &Bundle) {
        match (&self.fallback, *self.trust()) {
            (Some(fallback), Trust::FellBack) => (Accelerator::Tcg, fallback),
            _ => (self.choice.accelerator, &self.bundle),
        }
    }

    async fn boot_one(&self, spec: BootSpec, launcher: &dyn Launcher) -> Result<Arc<dyn Vm>, BootError> {
        let (accelerator, bundle) = self.current();
        let start = Start::Boot { kernel: spec.kernel, initramfs: spec.initramfs };
        let vm = self.start(bundle, accelerator, spec.machine, start, launcher).await?;
        vm.let_go().await
    }

    async fn restore_one(&self, spec: RestoreSpec, launcher: &dyn Launcher) -> Result<Arc<dyn Vm>, BootError> {
        let here = self.platform();
        spec.platform.check(&here)?;
        let (accelerator, current) = self.current();
        let earlier;
        let bundle = if spec.platform.bundle == here.bundle {
            current
        } else {
            let unknown = |error| BootError::Prepare { what: "QEMU", source: io::Error::other(error) };
            earlier = Bundle::stored(&self.data_dir, &spec.platform.bundle).map_err(unknown)?;
            &earlier
        };
        let vm = self.start(bundle, accelerator, spec.machine, Start::Incoming(spec.state), launcher).await?;
        vm.load().await
    }

    /// Starts QEMU, with its vCPUs stopped.
    async fn start(
        &self,
        bundle: &Bundle,
        accelerator: Accelerator,
        machine: Machine,
        start: Start,
        launcher: &dyn Launcher,
    ) -> Result<QemuVm, BootError> {
        let prepare = |what| move |source| BootError::Prepare { what, source };
        let layer_count = machine.layers.len();
        let qmp_socket = machine.directory.join(QMP_SOCKET);
        let console_socket = machine.directory.join(CONSOLE_SOCKET);
        let qmp_listener = listen(&qmp_socket).map_err(prepare("the control socket"))?;
        let console_listener = listen(&console_socket).map_err(prepare("the console socket"))?;
        let (stderr_reader, stderr_writer) = log_pipe::make(&machine.directory).map_err(prepare("the log"))?;
        let program = CommandLine {
            bundle,
            accelerator,
            tsc_khz: self.tsc_khz,
            machine,
            start,
            qmp: qmp_listener.into(),
            console: console_listener.into(),
            stderr: stderr_writer,
        }
        .into_program();
        let started = Instant::now();
        let launched = launcher.launch(program).await?;
        let log = BoundedLog::default();
        let following = log.follow(stderr_reader);
        QemuVm::connect(started, launched, &qmp_socket, &console_socket, Stderr { log, following }, layer_count).await
    }
}

impl Vmm for Qemu {
    fn info(&self) -> VmmInfo {
        let (accelerator, bundle) = self.current();
        VmmInfo { version: format!("QEMU {}", bundle.version()), accelerator }
    }

    fn boot<'a>(&'a self, spec: BootSpec, launcher: &'a dyn Launcher) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>> {
        Box::pin(self.boot_one(spec, launcher))
    }

    fn restore<'a>(
        &'a self,
        spec: RestoreSpec,
        launcher: &'a dyn Launcher,
    ) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>> {
        Box::pin(self.restore_one(spec, launcher))
    }

    fn find(&self, identity: ProcessIdentity) -> io::Result<VmmProcess> {
        VmmProcess::open(identity)
    }

    fn make_overlay<'a>(&'a self, path: &'a Path, disk: DiskMb) -> BoxFuture<'a, Result<(), OverlayError>> {
        Box::pin(overlay::make(path, disk))
    }

    fn adopt(&self, spec: AdoptSpec) -> BoxFuture<'_, Result<Arc<dyn Vm>, AdoptError>> {
        Box::pin(adopt::adopt(&self.data_dir, spec))
    }

    fn platform(&self) -> Platform {
        let (accelerator, bundle) = self.current();
        Platform {
            vmm: format!("QEMU {}", bundle.version()),
            bundle: bundle.digest(),
            machine: command::MACHINE.to_owned(),
            cpu: command::cpu(accelerator).to_owned(),
            accelerator: accelerator.to_string(),
            host_cpu: match accelerator {
                Accelerator::Kvm => crate::accelerator::processor(),
                Accelerator::Tcg => String::new(),
            },
            tsc_khz: self.tsc_khz,
        }
    }

    fn prune(&self, needed: &[Platform]) -> io::Result<()> {
        let own = [Some(&self.bundle), self.fallback.as_ref()].into_iter().flatten().map(Bundle::digest);
        Bundle::prune(&self.data_dir, &own.chain(needed.iter().map(|platform| platform.bundle.clone())).collect())
    }

    fn proven(&self) {
        let mut trust = self.trust();
        if *trust == Trust::Unproven {
            *trust = Trust::Settled;
        }
    }

    fn give_up(&self, accelerator: Accelerator) -> bool {
        let mut trust = self.trust();
        if *trust == Trust::Unproven {
            *trust = Trust::FellBack;
        }
        // Several first boots may fail at once: each of them is worth another try.
        *trust == Trust::FellBack && accelerator == Accelerator::Kvm
    }

    fn is_unproven(&self) -> bool {
        *self.trust() == Trust::Unproven
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

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu(accelerator: Accelerator, may_fall_back: bool) -> (tempfile::TempDir, Qemu) {
        let data_dir = tempfile::tempdir().unwrap();
        let choice = AcceleratorChoice { accelerator, may_fall_back, reason: String::new() };
        let qemu = Qemu::open(data_dir.path(), None, choice).unwrap();
        (data_dir, qemu)
    }

    #[test]
    fn hardware_is_given_up_only_before_a_guest_has_answered_on_it() {
        let (_data_dir, fresh) = qemu(Accelerator::Kvm, true);
        assert_eq!((fresh.info().accelerator, fresh.is_unproven()), (Accelerator::Kvm, true));
        assert!(fresh.give_up(Accelerator::Kvm));
        assert_eq!((fresh.info().accelerator, fresh.is_unproven()), (Accelerator::Tcg, false));
        assert!(fresh.give_up(Accelerator::Kvm), "another boot that had begun before");
        assert!(!fresh.give_up(Accelerator::Tcg), "there is nothing further to fall back to");

        let (_data_dir, proven) = qemu(Accelerator::Kvm, true);
        proven.proven();
        assert!(!proven.give_up(Accelerator::Kvm));
        assert_eq!(proven.info().accelerator, Accelerator::Kvm);
    }

    #[test]
    fn what_was_asked_for_by_name_is_never_given_up() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            let (_data_dir, qemu) = qemu(accelerator, false);
            assert!(!qemu.is_unproven() && !qemu.give_up(accelerator));
            assert_eq!(qemu.info().accelerator, accelerator);
        }
    }
}
