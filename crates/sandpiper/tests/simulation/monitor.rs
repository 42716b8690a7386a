//! A monitor of virtual machines that are only data. Its guests' memory and disks are in the files that the host agent
//! gives them, so that whatever that does to files shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use model::DiskMb;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use vmm::{
    Accelerator, AdoptError, AdoptSpec, BootError, BootSpec, Launcher, Machine, Memory, OverlayError, Platform,
    Process, ProcessIdentity, RestoreSpec, Vm, VmError, Vmm, VmmInfo, VmmProcess,
};

use crate::bugs::Bug;
use crate::world::{Life, World};

/// Numbers of processes that are none of the operating system's.
const FIRST_PID: i32 = 1_000_000_000;

/// What a guest has written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How often it wrote.
    pub version: u64,
    /// Its files.
    pub files: BTreeMap<String, String>,
}

/// A virtual machine that runs or is stopped.
pub struct Guest {
    /// Where its monitor's sockets would be.
    directory: PathBuf,
    /// Which network it has.
    pub slot: u16,
    /// What it has in memory.
    pub content: Content,
    /// Its own memory's file; none where its memory is private.
    memory: Option<File>,
    overlay: File,
    /// What it asks of callers.
    pub token: String,
    /// Whether user code stands still.
    pub is_frozen: bool,
    /// What its vCPUs do.
    pub mode: watch::Sender<Mode>,
}

/// What vCPUs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They run.
    Running,
    /// They are stopped.
    Stopped,
    /// The monitor has ended.
    Gone,
}

impl Guest {
    /// Writes a file, to memory and to disk.
    pub fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.content.version += 1;
        self.content.files.insert(path.to_owned(), value.to_owned());
        put(&self.overlay, &self.content)?;
        self.memory.as_ref().map_or(Ok(()), |memory| put(memory, &self.content))
    }
}

/// Writes a content where a file begins, without a change of its size if it has one already.
fn put(file: &File, content: &Content) -> io::Result<()> {
    let text = serde_json::to_vec(content).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    file.write_all_at(&[&length.to_le_bytes()[..], &text].concat(), 0)
}

/// What a file begins with; none where it holds nothing.
fn take(file: &File) -> io::Result<Option<Content>> {
    let mut length = [0; 4];
    match file.read_exact_at(&mut length, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    if text.is_empty() {
        return Ok(None);
    }
    file.read_exact_at(&mut text, 4)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}

/// The monitors of one host agent.
#[derive(Clone)]
pub struct Monitors {
    /// Where they are.
    pub world: World,
    /// Whose they are.
    pub life: Life,
}

/// One monitor.
#[derive(Clone)]
pub struct Monitor {
    world: World,
    life: Life,
    number: u64,
    process: VmmProcess,
}

struct MonitorProcess {
    world: World,
    life: Life,
    number: u64,
}

impl std::fmt::Debug for MonitorProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "monitor {}", self.number)
    }
}

fn identity(number: u64) -> ProcessIdentity {
    ProcessIdentity { pid: FIRST_PID + i32::try_from(number).unwrap_or_default(), start_ticks: number }
}

fn gone(command: &'static str) -> VmError {
    VmError::Gone { command }
}

impl Monitors {
    fn monitor(&self, number: u64) -> Monitor {
        let (world, life) = (self.world.clone(), self.life.clone());
        let process = VmmProcess::new(MonitorProcess { world: world.clone(), life: life.clone(), number });
        Monitor { world, life, number, process }
    }

    async fn start(
        &self,
        machine: Machine,
        state: Option<OwnedFd>,
        kind: &'static str,
    ) -> Result<Arc<dyn Vm>, BootError> {
        self.world.step(&self.life, &format!("monitor.{kind}")).await;
        let prepare = |what| move |source| BootError::Prepare { what, source };
        let number = self.world.new_process();
        let recorded = serde_json::to_vec(&identity(number)).expect("an identity is plain data");
        std::fs::write(machine.directory.join("vmm.json"), recorded).map_err(prepare("identity"))?;
        let guest = self.load(machine, state, kind).map_err(prepare("guest"))?;
        self.world.state().guests.insert(number, guest);
        self.world.step(&self.life, &format!("monitor.{kind}ed")).await;
        Ok(Arc::new(self.monitor(number)))
    }

    /// Reads what a guest has, and holds it against all laws.
    fn load(&self, machine: Machine, state: Option<OwnedFd>, kind: &str) -> io::Result<Guest> {
        let tap = File::from(machine.tap);
        let mut slot = [0; 2];
        tap.read_exact_at(&mut slot, 0)?;
        let overlay = File::from(machine.overlay);
        let own = |path: &Path| File::options().read(true).write(true).open(path);
        let (memory, in_memory) = match &machine.memory {
            Memory::Own(path) => {
                let file = own(path)?;
                let content = take(&file)?;
                (Some(file), content)
            }
            Memory::Frozen(path) => (None, take(&File::open(path)?)?),
        };
        let layers = machine.layers.into_iter().map(File::from);
        let mut on_disk = None;
        for layer in layers {
            on_disk = take(&layer)?.or(on_disk);
        }
        let on_disk = take(&overlay)?.or(on_disk).unwrap_or_default();
        self.check_place(&overlay, memory.as_ref())?;
        let boots = state.is_none();
        let content = match state {
            None => on_disk,
            Some(state) => {
                let in_memory = in_memory.unwrap_or_default();
                let devices = take(&File::from(state))?.unwrap_or_default();
                if devices != in_memory || in_memory != on_disk {
                    let versions = (devices.version, in_memory.version, on_disk.version);
                    let directory = machine.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let how = format!("{kind} of {directory} with devices, memory and disk of versions {versions:?}");
                    self.world.violated("memory and disk are of one moment", how);
                }
                in_memory
            }
        };
        if let (Some(memory), true) = (&memory, boots) {
            put(memory, &content)?;
        }
        let mode = if boots { Mode::Running } else { Mode::Stopped };
        Ok(Guest {
            directory: machine.directory,
            slot: u16::from_le_bytes(slot),
            content,
            memory,
            overlay,
            token: String::new(),
            is_frozen: false,
            mode: watch::Sender::new(mode),
        })
    }

    /// Nobody else may run on the same disk or memory, or use the same network.
    fn check_place(&self, overlay: &File, memory: Option<&File>) -> io::Result<()> {
        let inode = overlay.metadata()?.ino();
        let memory = memory.map(|file| file.metadata().map(|metadata| metadata.ino())).transpose()?;
        let is_shared = self.world.state().guests.values().any(|other| {
            let same = |file: &File, inode| file.metadata().is_ok_and(|metadata| metadata.ino() == inode);
            let has_memory = || Some(same(other.memory.as_ref()?, memory?));
            same(&other.overlay, inode) || has_memory().unwrap_or(false)
        });
        if is_shared {
            self.world.violated("no sandbox is in two places", "two monitors run on the same files");
        }
        Ok(())
    }
}

impl Vmm for Monitors {
    fn info(&self) -> VmmInfo {
        VmmInfo { version: "simulated".to_owned(), accelerator: Accelerator::Tcg }
    }

    fn boot<'a>(
        &'a self,
        spec: BootSpec,
        _launcher: &'a dyn Launcher,
    ) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>> {
        Box::pin(self.start(spec.machine, None, "boot"))
    }

    fn restore<'a>(
        &'a self,
        spec: RestoreSpec,
        _launcher: &'a dyn Launcher,
    ) -> BoxFuture<'a, Result<Arc<dyn Vm>, BootError>> {
        Box::pin(self.start(spec.machine, Some(spec.state), "restor"))
    }

    fn find(&self, identity: ProcessIdentity) -> io::Result<VmmProcess> {
        let is_there = self.world.state().guests.contains_key(&identity.start_ticks);
        if !is_there || self.world.has(Bug::ForgottenMonitors) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.monitor(identity.start_ticks).process)
    }

    fn make_overlay<'a>(&'a self, path: &'a Path, _disk: DiskMb) -> BoxFuture<'a, Result<(), OverlayError>> {
        Box::pin(async move {
            self.world.step(&self.life, "overlay").await;
            if self.world.state().weather.is_disk_full {
                return Err(OverlayError("no space left on device".to_owned()));
            }
            File::create(path).map(drop).map_err(|error| OverlayError(error.to_string()))
        })
    }

    fn adopt(&self, spec: AdoptSpec) -> BoxFuture<'_, Result<Arc<dyn Vm>, AdoptError>> {
        Box::pin(async move {
            self.world.step(&self.life, "monitor.adopt").await;
            let number = spec.process.start_ticks;
            let is_there = self.world.state().guests.contains_key(&number);
            if is_there { Ok(Arc::new(self.monitor(number)) as Arc<dyn Vm>) } else { Err(AdoptError::Ended) }
        })
    }

    fn platform(&self) -> Platform {
        Platform {
            vmm: "simulated".to_owned(),
            bundle: "simulated".to_owned(),
            machine: "data".to_owned(),
            cpu: "none".to_owned(),
            accelerator: "tcg".to_owned(),
            host_cpu: String::new(),
            tsc_khz: 1,
        }
    }

    fn prune(&self, _needed: &[Platform]) -> io::Result<()> {
        Ok(())
    }

    fn proven(&self) {}

    fn give_up(&self, _accelerator: Accelerator) -> bool {
        false
    }

    fn is_unproven(&self) -> bool {
        false
    }
}

impl Monitor {
    /// Does something to the virtual machine, if there is one.
    async fn tell<T>(
        &self,
        command: &'static str,
        what: impl FnOnce(&mut Guest) -> Result<T, VmError>,
    ) -> Result<T, VmError> {
        self.world.step(&self.life, &format!("monitor.{command}")).await;
        match self.world.state().guests.get_mut(&self.number) {
            Some(guest) => what(guest),
            None => Err(gone(command)),
        }
    }
}

impl Vm for Monitor {
    fn process(&self) -> &VmmProcess {
        &self.process
    }

    fn launch_delay(&self) -> Duration {
        Duration::ZERO
    }

    fn first_answer(&self) -> Duration {
        Duration::ZERO
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(self.tell("stop", |guest| {
            guest.mode.send_replace(Mode::Stopped);
            Ok(())
        }))
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async {
            let was_stopped =
                self.tell("go", |guest| Ok(guest.mode.send_replace(Mode::Running) == Mode::Stopped)).await?;
            let is_undone = was_stopped && self.world.state().weather.is_disk_full;
            if is_undone && self.world.has(Bug::PauseThatDestroys) {
                end(&self.world, self.number);
            }
            Ok(())
        })
    }

    fn save_state(&self, to: OwnedFd) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(self.tell("save", move |guest| {
            let refused = |error: io::Error| VmError::Refused { command: "save", reason: error.to_string() };
            put(&File::from(to), &guest.content).map_err(refused)
        }))
    }

    fn merge_layers(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(self.tell("merge", |guest| {
            let refused = |error: io::Error| VmError::Refused { command: "merge", reason: error.to_string() };
            put(&guest.overlay, &guest.content).map_err(refused)
        }))
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.process.kill().await })
    }

    fn last_words(&self) -> String {
        String::new()
    }
}

impl Process for MonitorProcess {
    fn identity(&self) -> ProcessIdentity {
        identity(self.number)
    }

    fn pid(&self) -> Option<i32> {
        None
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        let mode = self.world.state().guests.get(&self.number).map(|guest| guest.mode.subscribe());
        Box::pin(async move {
            if let Some(mut mode) = mode {
                let _ = mode.wait_for(|mode| *mode == Mode::Gone).await;
            }
            if self.life.is_over() {
                pending::<()>().await;
            }
        })
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.world.step(&self.life, "monitor.kill").await;
            end(&self.world, self.number);
        })
    }

    fn private_bytes(&self) -> io::Result<u64> {
        Ok(4096)
    }

    fn write_changes(&self, _base: &File, to: &File) -> io::Result<()> {
        let state = self.world.state();
        let guest = state.guests.get(&self.number).ok_or(io::ErrorKind::NotFound)?;
        if state.bug == Some(Bug::UnwrittenMemory) { Ok(()) } else { put(to, &guest.content) }
    }
}

/// Ends a monitor, whoever does it.
pub fn end(world: &World, number: u64) {
    let mut state = world.state();
    let Some(guest) = state.guests.remove(&number) else { return };
    guest.mode.send_replace(Mode::Gone);
    let name = guest.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    state.note(format_args!("monitor {number} of {name} is gone"));
    drop(state);
    crate::laws::see_end(world, &name);
}
