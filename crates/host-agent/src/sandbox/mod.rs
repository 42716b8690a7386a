//! The sandboxes of this host: a table of handles, and behind each handle one owner task that alone changes the
//! sandbox's state (see [`owner`]). Callers only enqueue.
//!
//! Knows nothing of RPC or HTTP.

mod activity;
mod admission;
mod adopt;
mod attend;
mod bake;
mod capture;
mod confinement;
mod disk;
mod error;
mod footprint;
mod generation;
mod gone;
mod ledger;
pub mod metrics;
mod network;
mod owner;
mod parts;
mod pause;
mod pool;
mod presence;
mod record;
mod restore;
mod start;
mod stop;
mod sweep;
mod turns;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use model::{
    Extent, Generation, Lifetime, NetworkPolicy, OnExpiry, OwnerId, SandboxId, Shape, SnapshotId, StartMode, Status,
    TemplateName,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use vmm::Vm;

use crate::blocking;
use crate::guest::Guest;
use crate::host::Host;
use crate::sandbox::metrics::Metrics;
use crate::snapshot::{Frozen, Reservation, SnapshotError};
use activity::Activity;
pub use activity::Busy;
pub use admission::LimitSettings;
pub(crate) use admission::Meminfo;
pub use confinement::Confinement;
pub use error::{CaptureError, CreateError, DestroyError, TransitionError, UseError};
pub use footprint::{Footprint, FootprintError, Start};
use gone::Gone;
pub use ledger::{Ledger, Limits, Refusal};
pub use network::{NetworkError, NetworkState};
use owner::Farewell;
pub(crate) use pause::paused_dir;
pub(crate) use pool::keep as keep_pool;
pub use pool::{InvalidPoolMode, Pool, PoolMode};
pub use presence::Presence;
pub(crate) use record::{builds_in, platforms_in};
pub use sweep::{Found, SweepError, sweep};
pub use turns::Turns;

/// What a sandbox is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Chosen by the caller, so that a repeated call means the same sandbox.
    pub id: SandboxId,
    /// What is under its disk.
    pub template: TemplateName,
    /// What it is made of.
    pub shape: Shape,
    /// When it expires.
    pub lifetime: Lifetime,
    /// What expiry does to it.
    pub on_expiry: OnExpiry,
    /// Whose it is.
    pub owner: OwnerId,
    /// What it goes on from, where that is a snapshot. Template and shape are then the snapshot's.
    pub snapshot: Option<SnapshotId>,
    /// How it is to come to be.
    #[serde(default)]
    pub start: StartMode,
    /// What it may reach.
    #[serde(default)]
    pub network: NetworkPolicy,
    /// Environment of every process in it, above that of its template.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// What the end of the host agent does to a sandbox that runs. A paused one stays on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClose {
    /// It runs on, and the next host agent takes it over.
    Keep,
    /// It is deleted.
    Destroy,
    /// It is paused. One that cannot be is deleted.
    Pause,
}

/// A sandbox as others see it.
#[derive(Debug, Clone)]
pub struct SandboxInfo {
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// What it is in.
    pub status: Status,
    /// Where this host reaches it; none before it has a network.
    pub host_ip: Option<Ipv4Addr>,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// When it last did something for a caller.
    pub last_active_at: SystemTime,
}

/// What the owner task publishes.
#[derive(Debug, Clone)]
struct View {
    status: Status,
    host_ip: Option<Ipv4Addr>,
    /// Why a create did not work.
    failure: Option<Arc<CreateError>>,
}

/// What callers may ask of an owner task.
enum Command {
    Pause(Generation, oneshot::Sender<Result<(), TransitionError>>),
    Resume(Generation, Extent, oneshot::Sender<Result<(), TransitionError>>),
    Stop(Generation, oneshot::Sender<Result<(), TransitionError>>),
    Capture(Reservation, Extent, oneshot::Sender<Result<Captured, CaptureError>>),
    Network(oneshot::Sender<Result<NetworkState, NetworkError>>),
    SetNetwork(NetworkPolicy, oneshot::Sender<Result<(), NetworkError>>),
    Destroy(oneshot::Sender<Result<(), DestroyError>>),
    /// The host agent ends.
    Close(OnClose, oneshot::Sender<Result<(), DestroyError>>),
}

/// A snapshot that was made.
type Captured = (SnapshotId, Frozen);

/// Room for callers that ask while the owner is busy; further ones wait.
const QUEUE: usize = 16;

/// One sandbox, for everyone but its owner task.
#[derive(Clone)]
struct Handle {
    spec: SandboxSpec,
    created_at: SystemTime,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    activity: Arc<Activity>,
    /// There while the sandbox runs; another one each time.
    machine: SharedMachine,
    metrics: Arc<Metrics>,
}

/// The virtual machine of a sandbox that runs.
type SharedMachine = Arc<Mutex<Option<Running>>>;

/// A virtual machine whose guest answers.
#[derive(Clone)]
struct Running {
    guest: Guest,
    vm: Arc<dyn Vm>,
    start: Start,
    /// What was waited for meanwhile.
    confinement: Confinement,
}

/// A guest that may be talked to. While this exists the sandbox counts as busy and does not expire.
pub struct GuestUse {
    /// The agent inside.
    pub guest: Guest,
    /// Held as long as bytes flow.
    pub busy: Busy,
    /// For what outlives the use.
    pub presence: Presence,
}

/// All sandboxes of this host. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes {
    host: Arc<Host>,
    table: Arc<Mutex<Table>>,
    /// Whoever waits is woken when any sandbox's state has changed.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Table {
    handles: HashMap<SandboxId, Handle>,
    /// Set when the server ends: from then on nothing new is made.
    is_closing: bool,
    /// What is not made again.
    gone: Gone,
}

impl Sandboxes {
    /// None yet.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, table: Arc::default(), changes: watch::Sender::new(()) }
    }

    /// Makes a sandbox and returns when its guest answers. The same request again means the same sandbox. Goes on when
    /// the caller does not wait; can be ended by [`Self::destroy`] at any time.
    pub async fn create(&self, spec: SandboxSpec) -> Result<SandboxInfo, Arc<CreateError>> {
        // Nothing is begun that can only be asked for again. What comes from a snapshot needs the build that this has.
        if spec.snapshot.is_none() {
            self.host.templates.check_announced(&spec.template).map_err(|error| Arc::new(error.into()))?;
        }
        let mut handle = self.register(spec)?;
        let settled = handle.view.wait_for(|view| view.status != Status::Pending || view.failure.is_some()).await;
        let view = settled.map_err(|_| Arc::new(CreateError::Deleted))?.clone();
        match (view.failure, view.status) {
            (Some(failure), _) => Err(failure),
            (None, Status::Stopping | Status::Stopped) => Err(Arc::new(CreateError::Deleted)),
            (None, _) => Ok(handle.info()),
        }
    }

    /// Finds the sandbox of this very request, or enters it and starts its owner task.
    fn register(&self, spec: SandboxSpec) -> Result<Handle, Arc<CreateError>> {
        let mut table = self.table();
        if let Some(existing) = table.handles.get(&spec.id) {
            let is_same = existing.spec == spec;
            return if is_same { Ok(existing.clone()) } else { Err(Arc::new(CreateError::AlreadyExists(spec.id))) };
        }
        if table.is_closing {
            return Err(Arc::new(CreateError::Closing));
        }
        if table.gone.has(&spec.id) {
            return Err(Arc::new(CreateError::Deleted));
        }
        let (handle, owner) = owner::new(self.host.clone(), spec);
        table.handles.insert(handle.spec.id.clone(), handle.clone());
        drop(table);
        self.live(handle.view.clone(), handle.spec.id.clone(), owner.run());
        Ok(handle)
    }

    /// Takes over sandboxes that an earlier host agent left. To be called before the first sandbox is made.
    pub async fn adopt(&self, found: Vec<Found>) {
        let begun = Instant::now();
        let count = found.len();
        let mut adopted: FuturesUnordered<_> = found.into_iter().map(|found| adopt::adopt(&self.host, found)).collect();
        while let Some((record, parts, status)) = adopted.next().await {
            let (handle, owner) = owner::adopted(self.host.clone(), &record, parts, status);
            let (id, view) = (handle.spec.id.clone(), handle.view.clone());
            self.table().handles.insert(id.clone(), handle);
            self.live(view, id, owner.run());
        }
        if count > 0 {
            tracing::info!(count, took = ?begun.elapsed(), "sandboxes of an earlier run were taken over");
        }
    }

    /// Lets an owner task live, tells of what changes, and forgets the sandbox when nothing of it is left.
    fn live(
        &self,
        view: watch::Receiver<View>,
        id: SandboxId,
        life: impl Future<Output = Option<Farewell>> + Send + 'static,
    ) {
        tokio::spawn(pass_on(view, self.changes.clone()));
        let sandboxes = self.clone();
        tokio::spawn(async move {
            // One that stays on disk stays in the list too: whoever asks must not take it for gone.
            let Some(farewell) = life.await else { return };
            sandboxes.table().handles.remove(&id);
            farewell.say();
        });
    }

    /// Removes a sandbox, whatever it is doing, and returns when nothing of it is left. A create of it that comes later makes
    /// none.
    pub async fn destroy(&self, id: &SandboxId) -> Result<(), DestroyError> {
        let found = {
            let mut table = self.table();
            table.gone.add(id);
            table.handles.get(id).cloned()
        };
        let mut handle = found.ok_or_else(|| DestroyError::NotFound(id.clone()))?;
        let (sender, receiver) = oneshot::channel();
        if handle.commands.send(Command::Destroy(sender)).await.is_ok()
            && let Ok(result) = receiver.await
        {
            return result;
        }
        let status = handle.view.borrow().status;
        let stays = matches!(status, Status::Running | Status::Paused | Status::Stopped) && self.handle(id).is_some();
        if self.table().is_closing && stays {
            return Err(DestroyError::Closing);
        }
        // The owner task takes no commands any more: it is about to say that all is gone, unless it broke down.
        let said = handle.view.wait_for(|view| view.status == Status::Stopped || view.failure.is_some()).await;
        said.map(drop).map_err(|_| DestroyError::Abandoned(id.clone()))
    }

    /// Puts a running sandbox on disk: it then takes no memory and has no process.
    pub async fn pause(&self, id: &SandboxId, generation: Generation) -> Result<(), TransitionError> {
        self.change(id, |reply| Command::Pause(generation, reply)).await
    }

    /// Ends a running or paused sandbox and keeps its disk alone.
    pub async fn stop(&self, id: &SandboxId, generation: Generation) -> Result<(), TransitionError> {
        self.change(id, |reply| Command::Stop(generation, reply)).await
    }

    /// Lets a paused sandbox go on, or starts one from its disk that was stopped.
    pub async fn resume(&self, id: &SandboxId, generation: Generation, from: Extent) -> Result<(), TransitionError> {
        self.change(id, |reply| Command::Resume(generation, from, reply)).await
    }

    async fn change(
        &self,
        id: &SandboxId,
        command: impl FnOnce(oneshot::Sender<Result<(), TransitionError>>) -> Command,
    ) -> Result<(), TransitionError> {
        let handle = self.handle(id).ok_or_else(|| TransitionError::NotFound(id.clone()))?;
        let (sender, receiver) = oneshot::channel();
        let ended = || match self.table().is_closing {
            true => TransitionError::Closing,
            false => TransitionError::NotFound(id.clone()),
        };
        handle.commands.send(command(sender)).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }

    /// Captures a running or paused sandbox, which goes on as it was. The same id again means the same snapshot. Goes on
    /// when the caller does not wait.
    pub async fn capture(
        &self,
        id: &SandboxId,
        snapshot: SnapshotId,
        extent: Extent,
    ) -> Result<Captured, CaptureError> {
        let reservation = self.host.snapshots.reserve(snapshot).await;
        match reservation.get() {
            Ok(frozen) if frozen.manifest.sandbox.as_ref() == Some(id) => return Ok((reservation.id.clone(), frozen)),
            Ok(_) => return Err(CaptureError::AlreadyExists(reservation.id.clone())),
            Err(SnapshotError::NotFound(_)) => {}
            Err(error) => return Err(CaptureError::Failed(error.into())),
        }
        let handle = self.handle(id).ok_or_else(|| CaptureError::NotFound(id.clone()))?;
        let (sender, receiver) = oneshot::channel();
        let ended = || match self.table().is_closing {
            true => CaptureError::Closing,
            false => CaptureError::NotFound(id.clone()),
        };
        handle.commands.send(Command::Capture(reservation, extent, sender)).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }

    /// What a sandbox was asked to be.
    pub fn spec(&self, id: &SandboxId) -> Option<SandboxSpec> {
        self.handle(id).map(|handle| handle.spec)
    }

    /// A running sandbox's guest, to talk to. Waits while the sandbox is captured: it goes on at once.
    pub async fn use_guest(&self, id: &SandboxId) -> Result<GuestUse, UseError> {
        let mut handle = self.handle(id).ok_or_else(|| UseError::NotFound(id.clone()))?;
        let settled = handle.view.wait_for(|view| view.status != Status::Snapshotting).await;
        let status = settled.map_err(|_| UseError::NotFound(id.clone()))?.status;
        let not_running = || UseError::NotRunning { id: id.clone(), status };
        let running = handle.running().filter(|_| status == Status::Running).ok_or_else(not_running)?;
        // Fails when the owner has just decided that the sandbox has expired.
        let busy = handle.activity.begin().ok_or_else(|| match handle.spec.on_expiry {
            OnExpiry::Destroy => UseError::NotFound(id.clone()),
            OnExpiry::Pause | OnExpiry::Stop => UseError::NotRunning { id: id.clone(), status: Status::Pausing },
        })?;
        let presence = Presence::new(handle.activity, handle.view);
        Ok(GuestUse { guest: running.guest, busy, presence })
    }

    /// What a running sandbox costs its host. Asking is no use of it.
    pub fn footprint(&self, id: &SandboxId) -> Result<Footprint, FootprintError> {
        let handle = self.handle(id).ok_or_else(|| UseError::NotFound(id.clone()))?;
        let status = handle.view.borrow().status;
        let running = handle.running().ok_or_else(|| UseError::NotRunning { id: id.clone(), status })?;
        Footprint::of(&*running.vm, running.start, running.confinement).map_err(FootprintError::Look)
    }

    /// What a sandbox uses and has used, whatever it is in now.
    pub fn metrics(&self, id: &SandboxId) -> Result<Arc<Metrics>, UseError> {
        let handle = self.handle(id).ok_or_else(|| UseError::NotFound(id.clone()))?;
        Ok(handle.metrics)
    }

    /// What one sandbox's own files take on this host's disk.
    pub async fn disk_bytes(&self, id: &SandboxId) -> u64 {
        let directory = self.host.sandboxes_dir().join(id.as_str());
        // Only a panic has no answer.
        blocking::run(move || disk::own_bytes(&directory)).await.unwrap_or(0)
    }

    /// Changes when a sandbox's state does. Of many changes at once one may be all that is seen.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Every sandbox, oldest first.
    pub fn list(&self) -> Vec<SandboxInfo> {
        let mut list: Vec<_> = self.table().handles.values().map(Handle::info).collect();
        list.sort_by_key(|info| info.created_at);
        list
    }

    /// Makes nothing new any more. Leaves paused sandboxes on disk, does to running ones what `on_close` says, and
    /// removes all others. Returns those that could not be removed. What runs on is still in the list.
    pub async fn close(&self, on_close: OnClose) -> Vec<(SandboxId, DestroyError)> {
        let handles: Vec<_> = {
            let mut table = self.table();
            table.is_closing = true;
            table.handles.values().cloned().collect()
        };
        let close = |handle: Handle| async move { (handle.spec.id.clone(), self.close_one(&handle, on_close).await) };
        let removals: FuturesUnordered<_> = handles.into_iter().map(close).collect();
        removals.filter_map(|(id, result)| async move { result.err().map(|error| (id, error)) }).collect().await
    }

    async fn close_one(&self, handle: &Handle, on_close: OnClose) -> Result<(), DestroyError> {
        let (sender, receiver) = oneshot::channel();
        if handle.commands.send(Command::Close(on_close, sender)).await.is_ok()
            && let Ok(result) = receiver.await
        {
            return result;
        }
        // It is being deleted.
        self.destroy(&handle.spec.id).await
    }

    fn handle(&self, id: &SandboxId) -> Option<Handle> {
        self.table().handles.get(id).cloned()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of every change of one sandbox, its end too, to those who look at all.
async fn pass_on(mut view: watch::Receiver<View>, changes: watch::Sender<()>) {
    changes.send_replace(());
    while view.changed().await.is_ok() {
        changes.send_replace(());
    }
    changes.send_replace(());
}

impl Handle {
    fn running(&self) -> Option<Running> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn info(&self) -> SandboxInfo {
        let view = self.view.borrow();
        SandboxInfo {
            spec: self.spec.clone(),
            status: view.status,
            host_ip: view.host_ip,
            created_at: self.created_at,
            last_active_at: self.activity.last(),
        }
    }
}
