//! What a sandbox is made of on its host: directory, network, overlay, virtual machine. Made in this order, removed in
//! the reverse.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use model::{DiskMb, StartMode};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use vmm::{BootSpec, Machine, Memory, Platform, Vm};

use super::confinement::Confinement;
use super::ledger::{Place, Share};
use super::owner::RETRY_DELETE;
use super::record::{RECORD, Record, Run};
use super::{CreateError, DestroyError, Running, SandboxSpec, Start, admission};
use crate::blocking;
use crate::cgroup::{Cgroup, CgroupLimits};
use crate::egress::Egress;
use crate::guest::{Guest, Identity};
use crate::host::Host;
use crate::jail::{Jail, ResourceLimits};
use crate::machine::Failpoint;
use crate::net::{self, GuestNetwork, Slot};
use crate::snapshot::{Layer, Origin};
use crate::template::Template;

/// The file in a sandbox's directory that says which process its monitor is.
pub(super) const IDENTITY_FILE: &str = "vmm.json";

/// The file in a sandbox's directory that holds what its guest wrote.
pub(super) const OVERLAY_FILE: &str = "overlay.qcow2";

/// The file in a sandbox's directory that is its guest's memory, or is to become it.
pub(super) const MEMORY_FILE: &str = "memory";

/// How long the first guest on hardware virtualisation may take. Where that is real a boot takes less than a second;
/// where it is not, guests hang.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);

/// What has been made so far.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) directory: Option<PathBuf>,
    pub(super) network: Option<Box<dyn GuestNetwork>>,
    /// Kept for every start of a monitor after the first.
    pub(super) tap: Option<OwnedFd>,
    /// What finds names for its guest, where its policy names some.
    pub(super) egress: Option<Egress>,
    /// What its monitor runs in, once there has been one.
    pub(super) cgroup: Option<Cgroup>,
    /// What is under all of its disk.
    pub(super) template: Option<Template>,
    /// What its directory says of it.
    pub(super) record: Option<Record>,
    pub(super) memory: MemoryOwner,
    /// What its virtual machine runs on, or last ran on.
    pub(super) platform: Option<Platform>,
    pub(super) vm: Option<Arc<dyn Vm>>,
    pub(super) guest: Option<Guest>,
    /// How that virtual machine came to be.
    pub(super) start: Start,
    /// What was waited for meanwhile.
    pub(super) confinement: Confinement,
    /// That it counts as one of its owner's.
    pub(super) place: Option<Place>,
    /// The memory and vCPUs that were promised to it.
    pub(super) share: Option<Share>,
}

/// Whose the file is that a running sandbox's memory is mapped from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MemoryOwner {
    /// The sandbox's: all that its guest writes is in there.
    #[default]
    Sandbox,
    /// A frozen one, of an image or a snapshot: what its guest writes is in its monitor alone.
    Shared,
}

impl Parts {
    /// Those of a sandbox that an earlier host agent left on disk. It has no network.
    pub fn on_disk(directory: PathBuf, record: Record, place: Place) -> Self {
        Self { directory: Some(directory), record: Some(record), place: Some(place), ..Self::default() }
    }

    /// Makes everything. After an error, or when cancelled, what was made is still here, to be removed.
    pub async fn build(
        &mut self,
        host: &Arc<Host>,
        spec: &SandboxSpec,
        created_at: SystemTime,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let _working = host.pool.begin_work();
        if let Some(id) = &spec.snapshot {
            let origin = host.snapshots.get(id)?.manifest.origin;
            let template = host.templates.get_build(&origin.template, &origin.build)?;
            self.admit(host, spec).await?;
            self.begin(host, spec, created_at, &template).await?;
            self.restore_snapshot(host, spec, id, cancel).await?;
            return self.note_made(host).await;
        }
        let template = host.templates.get(&spec.template)?;
        check_disk_size(spec, &template)?;
        if spec.start == StartMode::Auto && self.claim(host, spec, created_at, &template).await? {
            return Ok(());
        }
        self.admit(host, spec).await?;
        self.begin(host, spec, created_at, &template).await?;
        let is_restored =
            spec.start != StartMode::Boot && self.restore_from_bake(host, spec, &template, cancel).await?;
        if !is_restored {
            self.boot_anew(host, spec, &template, Room::Reserved, cancel).await?;
        }
        self.note_made(host).await
    }

    pub(super) async fn note_made(&mut self, host: &Host) -> Result<(), CreateError> {
        let guest = self.guest.clone().expect("a sandbox that was made has a guest");
        self.note_running(host, &guest).await
    }

    /// As [`build`](Self::build), without a look at baked images: what these are made by.
    pub async fn build_for_bake(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        self.begin(host, spec, SystemTime::now(), template).await?;
        self.boot_anew(host, spec, template, Room::AsNeeded, cancel).await
    }

    async fn admit(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let (place, share) = admission::admit(host, spec).await?;
        (self.place, self.share) = (Some(place), Some(share));
        Ok(())
    }

    /// Directory and network.
    pub(super) async fn begin(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        created_at: SystemTime,
        template: &Template,
    ) -> Result<(), CreateError> {
        self.make_directory(host, spec)?;
        self.record = Some(Record::new(spec.clone(), created_at, template.manifest.build.clone()));
        self.template = Some(template.clone());
        self.make_network(host, spec).await
    }

    /// Begins it; [`Self::network_ready`] waits for the rest. Does nothing where there is one with a tap. That of a network
    /// that was adopted went with its monitor.
    pub(super) async fn make_network(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        if self.tap.is_none() {
            self.remove_network().await.map_err(CreateError::Left)?;
        }
        if self.network.is_none() {
            let begun = Instant::now();
            let mut network = host.network.create(&spec.id, &spec.network).await?;
            self.confinement = Confinement { fence: begun.elapsed(), ..Confinement::default() };
            self.tap = network.take_tap();
            self.network = Some(network);
        }
        Ok(())
    }

    /// Waits until what a guest may reach is settled: before it runs.
    pub(super) async fn network_ready(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let begun = Instant::now();
        let ready = self.network.as_mut().expect("the network is begun first").ready().await;
        if ready.is_err() {
            // Half a network is none: who tries again makes another.
            self.tap = None;
        }
        ready?;
        if self.egress.is_none() {
            self.begin_egress(host, &spec.network).await?;
        }
        self.confinement.fence += begun.elapsed();
        Ok(())
    }

    async fn boot_anew(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        room: Room,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        host.vmm.make_overlay(&self.directory().join(OVERLAY_FILE), self.disk()).await?;
        self.record_layers(Vec::new())?;
        host.surroundings.reached(Failpoint::RecordWritten);
        self.boot_from_disk(host, spec, template, room, cancel).await
    }

    /// Boots from the disk that there is, with a memory that is empty.
    pub(super) async fn boot_from_disk(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        room: Room,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let promised = match room {
            Room::Reserved => Some(admission::promise_disk(host, spec.shape.memory.get().into())?),
            Room::AsNeeded => None,
        };
        make_memory(&self.directory().join(MEMORY_FILE), spec, room)?;
        drop(promised);
        (self.memory, self.start) = (MemoryOwner::Sandbox, Start::Boot);
        let guest = self.boot(host, spec, template, cancel).await?;
        guest.introduce(&identity(host, spec, template)).await.map_err(CreateError::Introduce)?;
        if let Some(start) = &template.manifest.start {
            tokio::select! {
                started = guest.start(&start.command, &start.ready) => started?,
                () = cancel.cancelled() => return Err(CreateError::Deleted),
            }
        }
        self.guest = Some(guest);
        Ok(())
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.as_deref().expect("the directory is made first")
    }

    /// Asks the machine before something is written.
    pub(super) fn may_write(&self, host: &Host, at: Failpoint) -> Result<(), CreateError> {
        host.surroundings.may_write(at).map_err(file_error("write in", self.directory()))
    }

    /// Looks for the build that the sandbox was made of, where that was done by an earlier host agent.
    pub(super) fn find_template(&mut self, host: &Host) -> Result<(), CreateError> {
        if self.template.is_none() {
            let record = self.record();
            self.template = Some(host.templates.get_build(&record.spec.template, &record.build)?);
        }
        Ok(())
    }

    pub(super) fn template(&self) -> &Template {
        self.template.as_ref().expect("a sandbox that was made has a template")
    }

    pub(super) fn record(&self) -> &Record {
        self.record.as_ref().expect("a sandbox that was made has a record")
    }

    /// How large its disk is. What that has more than its template's image the guest agent takes into use.
    pub(super) fn disk(&self) -> DiskMb {
        self.record().spec.shape.disk.max(self.template().manifest.disk_mb)
    }

    /// Writes down what is between the template's image and the sandbox's overlay.
    pub(super) fn record_layers(&mut self, layers: Vec<Layer>) -> Result<(), CreateError> {
        let mut record = self.record().clone();
        record.layers = layers;
        let directory = self.directory();
        record.write(directory).map_err(file_error("write the record in", directory))?;
        self.record = Some(record);
        Ok(())
    }

    /// What the next host agent has to know of the virtual machine that there is, once it has `guest`.
    pub(super) fn run(&self, host: &Host, guest: &Guest) -> Option<Run> {
        Some(Run {
            machine_boot: host.machine_boot.clone(),
            platform: self.platform.clone()?,
            memory: self.memory,
            start: self.start,
            first_answer: self.vm.as_ref()?.first_answer(),
            access_token: guest.access_token().clone(),
        })
    }

    /// Writes down as what the sandbox runs: from then on it outlives the host agent.
    pub(super) async fn note_running(&mut self, host: &Host, guest: &Guest) -> Result<(), CreateError> {
        let record = self.record().clone().running(self.run(host, guest));
        self.record = Some(self.write(record).await?);
        Ok(())
    }

    /// Writes a record in the place of the one that there is.
    pub(super) async fn write(&self, record: Record) -> Result<Record, CreateError> {
        let (written, directory) = (record.clone(), self.directory().to_owned());
        let done = blocking::run(move || written.write(&directory)).await;
        done.unwrap_or_else(|error| Err(error.into()))
            .map_err(file_error("write the record in", self.directory()))
            .map(|()| record)
    }

    /// What a capture of its virtual machine is of.
    pub(super) fn origin(&self) -> Origin {
        let platform = self.platform.clone().expect("a virtual machine that was started runs on something");
        Origin::new(self.template(), self.record().spec.shape, platform)
    }

    /// The virtual machine, once its guest knows who it is.
    pub fn running(&self) -> Option<Running> {
        let (start, confinement) = (self.start, self.confinement);
        Some(Running { guest: self.guest.clone()?, vm: self.vm.clone()?, start, confinement })
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
        self.network.as_ref().map(|network| network.host_ip())
    }

    /// Removes everything that is there. What could not be removed stays, and the call may be repeated.
    pub async fn dismantle(&mut self) -> Result<(), DestroyError> {
        if let Some(directory) = &self.directory {
            // First what makes it a sandbox's: whatever is left from here on is not taken for one.
            let _ = fs::remove_file(directory.join(RECORD));
        }
        self.guest = None;
        if let Some(vm) = self.vm.take() {
            vm.kill().await;
        }
        self.remove_network().await?;
        if let Some(directory) = &self.directory {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(left("directory")(error)),
                _ => self.directory = None,
            }
        }
        (self.place, self.share) = (None, None);
        Ok(())
    }

    /// Removes everything of a sandbox that nobody knows of, as often as it takes. Only the first time is waited for.
    pub async fn vanish(mut self) {
        let Err(error) = self.dismantle().await else { return };
        tracing::warn!(error = &error as &dyn std::error::Error, "something is left of a sandbox that is nobody's");
        tokio::spawn(async move {
            tokio::time::sleep(RETRY_DELETE).await;
            while self.dismantle().await.is_err() {
                tokio::time::sleep(RETRY_DELETE).await;
            }
        });
    }

    /// Gives back what a paused sandbox has outside its directory.
    pub async fn remove_network(&mut self) -> Result<(), DestroyError> {
        self.tap = None;
        self.end_egress().await.map_err(left("resolver and proxy"))?;
        // Before the slot, by which another sandbox would find it.
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove().await.map_err(left("control group"))?;
            self.cgroup = None;
        }
        if let Some(network) = &mut self.network {
            network.delete().await.map_err(left("network"))?;
            self.network = None;
        }
        Ok(())
    }

    /// Whether its monitor has not ended.
    pub(super) fn is_alive(&self) -> bool {
        self.vm.as_ref().is_some_and(|vm| vm.process().ended().now_or_never().is_none())
    }

    fn make_directory(&mut self, host: &Host, spec: &SandboxSpec) -> Result<(), CreateError> {
        let directory = host.sandboxes_dir().join(spec.id.as_str());
        let made = fs::DirBuilder::new().mode(0o700).create(&directory);
        made.map_err(file_error("make", &directory))?;
        self.directory = Some(directory);
        self.may_write(host, Failpoint::DirectoryMade)
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
                    if error.is_final() || !host.vmm.give_up(accelerator) {
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
        let _turn = host.turns.take_unless(cancel).await?;
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
        let boot = BootSpec {
            machine: self.machine(host, spec, Memory::Own(self.directory().join(MEMORY_FILE)))?,
            kernel: template.kernel.image(),
            initramfs: template.initramfs.clone(),
        };
        self.platform = Some(host.vmm.platform());
        let jail = self.jail(host);
        let vm = host.vmm.boot(boot, &jail).await?;
        self.confinement.jail = vm.launch_delay();
        self.vm = Some(vm.clone());
        // Long before its kernel looks for a network.
        self.network_ready(host, spec).await?;
        Ok(vm)
    }

    /// What its virtual machine is made of, this time.
    pub(super) fn machine(&self, host: &Host, spec: &SandboxSpec, memory: Memory) -> Result<Machine, CreateError> {
        let directory = self.directory();
        let tap = self.tap.as_ref().expect("the network came with a tap");
        let open = |path: &Path| File::open(path).map(OwnedFd::from).map_err(file_error("open", path));
        let overlay = directory.join(OVERLAY_FILE);
        let layers = self.record().layers.iter();
        Ok(Machine {
            shape: spec.shape,
            memory,
            base_image: open(&self.template().image)?,
            layers: layers.map(|layer| open(&directory.join(&layer.name))).collect::<Result<_, _>>()?,
            overlay: OpenOptions::new()
                .read(true)
                .write(true)
                .open(&overlay)
                .map_err(file_error("open", &overlay))?
                .into(),
            tap: tap.try_clone().map_err(file_error("copy the tap of", directory))?,
            mac: net::GUEST_MAC,
            directory: directory.to_owned(),
            disk_limits: host.disk_limits,
        })
    }

    pub(super) fn jail(&mut self, host: &Host) -> Jail {
        let (cgroup, group_limits) = self.find_cgroup(host);
        Jail {
            uid: host.uid_of(self.slot()),
            identity_file: self.directory().join(IDENTITY_FILE),
            cgroup,
            limits: ResourceLimits { threads: group_limits.threads(), file_bytes: largest_file(self.disk()) },
            landlock: host.landlock(),
        }
    }

    /// The control groups of its monitor, whether or not they are there.
    pub(super) fn find_cgroup(&mut self, host: &Host) -> (Cgroup, CgroupLimits) {
        let shape = self.record().spec.shape;
        let disk = Some(host.disk_limits);
        let limits = CgroupLimits { vcpus: shape.vcpus.get(), memory_mb: shape.memory.get(), disk };
        let cgroup = host.cgroups.of(self.slot(), limits);
        self.cgroup = Some(cgroup.clone());
        (cgroup, limits)
    }

    fn slot(&self) -> Slot {
        self.network.as_ref().expect("the network is made before the virtual machine").slot()
    }

    pub(super) fn guest_client(&self) -> Guest {
        let network = self.network.as_ref().expect("the network is made before the guest is sought");
        Guest::new(network.connector())
    }
}

/// The most that a monitor writes to a file: an overlay of which every block was written, with its tables.
fn largest_file(disk: DiskMb) -> u64 {
    let disk = u64::from(disk.get()) << 20;
    disk + disk / 64 + (64 << 20)
}

fn left<E: std::error::Error + Send + Sync + 'static>(part: &'static str) -> impl FnOnce(E) -> DestroyError {
    move |source| DestroyError::Left { part, source: Arc::new(source) }
}

pub(super) fn file_error(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::File { step, path, source }
}

pub(super) fn identity(host: &Host, spec: &SandboxSpec, template: &Template) -> Identity {
    Identity {
        sandbox_id: spec.id.to_string(),
        template_id: spec.template.to_string(),
        hostname: spec.id.to_string(),
        env_vars: template.manifest.defaults.env.iter().chain(&spec.env).map(|(k, v)| (k.clone(), v.clone())).collect(),
        default_user: template.manifest.defaults.user.clone(),
        default_workdir: Some(template.manifest.defaults.workdir.clone()).filter(|workdir| !workdir.is_empty()),
        // Whoever answers on the host, the guest always asks its side of the tap.
        nameservers: vec![net::TAP_IP.to_string()],
        timestamp: jiff::Timestamp::now().to_string(),
        ca_bundle: (!spec.network.headers().is_empty()).then(|| host.authority.certificate().to_owned()),
        boot_id: None,
    }
}

/// Room on the disk for a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// For all of it: a guest that writes where the disk has no room left ends its monitor.
    Reserved,
    /// For what it writes: where it is no loss if that does not fit.
    AsNeeded,
}

/// The file that becomes a guest's memory.
fn make_memory(path: &Path, spec: &SandboxSpec, room: Room) -> Result<(), CreateError> {
    let failed = || file_error("make", path);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(failed())?;
    file.set_len(u64::from(spec.shape.memory.get()) << 20).map_err(failed())?;
    match room {
        Room::Reserved => vmm::memory::reserve(&file).map_err(failed()),
        Room::AsNeeded => Ok(()),
    }
}

/// A disk cannot be smaller than what is on it. Who asks for none in particular gets at least that.
fn check_disk_size(spec: &SandboxSpec, template: &Template) -> Result<(), CreateError> {
    let (least, wanted) = (template.manifest.disk_mb, spec.shape.disk);
    if wanted >= least || wanted == DiskMb::DEFAULT {
        return Ok(());
    }
    Err(CreateError::DiskTooSmall { template: spec.template.clone(), least, wanted })
}
