//! What a sandbox is made of on its host: directory, network, overlay, virtual machine. Made in this order, removed in
//! the reverse.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vmm::{BootSpec, Vm};

use super::{CreateError, DestroyError, SandboxSpec, admission};
use crate::guest::{Guest, Identity};
use crate::host::Host;
use crate::jail::Jail;
use crate::net::{self, SandboxNetwork};
use crate::template::Template;

/// The file in a sandbox's directory that says which process its monitor is.
pub(super) const IDENTITY_FILE: &str = "vmm.json";

/// The file in a sandbox's directory that holds what its guest wrote.
const OVERLAY_FILE: &str = "overlay.qcow2";

/// How long the first guest on hardware virtualisation may take. Where that is real a boot takes less than a second;
/// where it is not, guests hang.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);

/// What has been made so far.
#[derive(Default)]
pub(super) struct Parts {
    directory: Option<PathBuf>,
    network: Option<SandboxNetwork>,
    /// Kept for a second boot, should hardware virtualisation prove not to work.
    tap: Option<OwnedFd>,
    vm: Option<Arc<dyn Vm>>,
    guest: Option<Guest>,
}

impl Parts {
    /// Makes everything. After an error, or when cancelled, what was made is still here, to be removed.
    pub async fn build(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let template = host.templates.get(&spec.template)?;
        admission::check(&spec.shape, &host.data_dir, host.disk_reserve_mb)?;
        let directory = self.make_directory(host, spec)?;
        let mut network = host.network.create(&spec.id).await?;
        self.tap = network.take_tap();
        self.network = Some(network);
        make_overlay(&directory.join(OVERLAY_FILE), &template).await?;
        let guest = self.boot(host, spec, &template, cancel).await?;
        guest.introduce(&identity(host, spec, &template)).await.map_err(CreateError::Introduce)?;
        self.guest = Some(guest);
        Ok(())
    }

    /// The guest, once it knows who it is.
    pub fn guest(&self) -> Option<&Guest> {
        self.guest.as_ref()
    }

    /// The virtual machine, once it was started.
    pub fn vm(&self) -> Option<&Arc<dyn Vm>> {
        self.vm.as_ref()
    }

    /// What the guest writes to.
    pub fn overlay(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(OVERLAY_FILE))
    }

    /// Where this host reaches the guest.
    pub fn host_ip(&self) -> Option<Ipv4Addr> {
        self.network.as_ref().map(SandboxNetwork::host_ip)
    }

    /// Removes everything that is there. What could not be removed stays, and the call may be repeated.
    pub async fn dismantle(&mut self) -> Result<(), DestroyError> {
        self.guest = None;
        if let Some(vm) = self.vm.take() {
            vm.kill().await;
        }
        self.tap = None;
        if let Some(network) = &mut self.network {
            network.delete().await.map_err(left("network"))?;
            self.network = None;
        }
        if let Some(directory) = &self.directory {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(left("directory")(error)),
                _ => self.directory = None,
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, host: &Host, spec: &SandboxSpec) -> Result<PathBuf, CreateError> {
        let directory = host.sandboxes_dir().join(spec.id.as_str());
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(file_error("make", &directory))?;
        self.directory = Some(directory.clone());
        Ok(directory)
    }

    /// Boots until a guest answers: at most twice, the second time without hardware virtualisation.
    async fn boot(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        cancel: &CancellationToken,
    ) -> Result<Guest, CreateError> {
        loop {
            if cancel.is_cancelled() {
                return Err(CreateError::Deleted);
            }
            let accelerator = host.vmm.info().accelerator;
            match self.try_boot(host, spec, template, cancel).await {
                Ok(guest) => {
                    host.vmm.proven();
                    return Ok(guest);
                }
                Err(error) => {
                    if matches!(error, CreateError::Deleted) || !host.vmm.give_up(accelerator) {
                        return Err(error);
                    }
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "no guest answers on KVM here: this host goes on without it, on TCG");
                }
            }
            if let Some(vm) = self.vm.take() {
                vm.kill().await;
            }
        }
    }

    async fn try_boot(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        cancel: &CancellationToken,
    ) -> Result<Guest, CreateError> {
        let limit = if host.vmm.is_unproven() { host.boot_timeout.min(PROOF_TIMEOUT) } else { host.boot_timeout };
        let vm = self.start_vm(host, spec, template).await?;
        let guest = self.guest_client();
        tokio::select! {
            ready = guest.wait_until_ready(limit) => match ready {
                Ok(()) => Ok(guest),
                Err(silence) => Err(CreateError::Unanswered { silence, last_words: vm.last_words() }),
            },
            () = vm.process().ended() => Err(CreateError::Ended { last_words: vm.last_words() }),
            () = cancel.cancelled() => Err(CreateError::Deleted),
        }
    }

    async fn start_vm(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
    ) -> Result<Arc<dyn Vm>, CreateError> {
        let directory = self.directory.as_ref().expect("the directory is made first");
        let network = self.network.as_ref().expect("the network is made before the virtual machine");
        let tap = self.tap.as_ref().expect("the network came with a tap");
        let overlay = directory.join(OVERLAY_FILE);
        let boot = BootSpec {
            shape: spec.shape,
            kernel: template.kernel.image(),
            initramfs: template.initramfs.clone(),
            base_image: File::open(&template.image).map_err(file_error("open", &template.image))?.into(),
            overlay: OpenOptions::new()
                .read(true)
                .write(true)
                .open(&overlay)
                .map_err(file_error("open", &overlay))?
                .into(),
            tap: tap.try_clone().map_err(file_error("copy the tap of", directory))?,
            mac: net::GUEST_MAC,
            directory: directory.clone(),
        };
        let jail = Jail { uid: host.uid_of(network.slot()), identity_file: directory.join(IDENTITY_FILE) };
        let vm = host.vmm.boot(boot, &jail).await?;
        self.vm = Some(vm.clone());
        Ok(vm)
    }

    fn guest_client(&self) -> Guest {
        let network = self.network.as_ref().expect("the network is made before the guest is sought");
        Guest::new(network.connector())
    }
}

fn left<E: std::error::Error + Send + Sync + 'static>(part: &'static str) -> impl FnOnce(E) -> DestroyError {
    move |source| DestroyError::Left { part, source: Arc::new(source) }
}

fn file_error(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::File { step, path, source }
}

fn identity(host: &Host, spec: &SandboxSpec, template: &Template) -> Identity {
    Identity {
        sandbox_id: spec.id.to_string(),
        template_id: spec.template.to_string(),
        hostname: spec.id.to_string(),
        env_vars: template.manifest.defaults.env.clone(),
        default_user: template.manifest.defaults.user.clone(),
        default_workdir: Some(template.manifest.defaults.workdir.clone()).filter(|workdir| !workdir.is_empty()),
        nameservers: host.nameservers.clone(),
        timestamp: jiff::Timestamp::now().to_string(),
    }
}

/// How long `qemu-img` may take for a file of a few hundred kilobytes.
const OVERLAY_DEADLINE: Duration = Duration::from_secs(30);

/// An empty overlay as large as the template's image. It names no backing file: the monitor is told which it is, so
/// that a header that a guest has tampered with leads nowhere.
async fn make_overlay(path: &Path, template: &Template) -> Result<(), CreateError> {
    let size = fs::metadata(&template.image).map_err(file_error("measure", &template.image))?.len();
    let output = tokio::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off,extended_l2=off"])
        .arg(path)
        .arg(size.to_string())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(OVERLAY_DEADLINE, output).await;
    let output = output.map_err(|_| CreateError::Overlay("qemu-img did not end in time".to_owned()))?;
    let output = output.map_err(|error| CreateError::Overlay(format!("qemu-img does not start: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(CreateError::Overlay(String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect()))
}
