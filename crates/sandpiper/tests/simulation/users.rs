//! Everybody who uses the installation: what they ask for, what they were told, and what they find in the end.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use connectrpc::client::{ClientConfig, ServiceTransport};
use control_plane::{Failure, InProcess, Records, SimulatedControlPlane, Wish};
use model::{Extent, Lifetime, OnExpiry, SandboxId, Shape, ShapeRequest, SnapshotId, Status};
use proto::hostagent::v1::{HostAgentServiceClient, ListSandboxesRequest, ReadFileRequest, WriteFileRequest};

use crate::bugs::Bug;
use crate::history::{Event, History, SLOTS, Span};
use crate::host::TEMPLATE;
use crate::planes::{Asked, PERIOD};
use crate::rpc::{Callee, line};
use crate::subjects::Subject;
use crate::world::{Life, Program, Weather, World};
use crate::{host, laws, monitor, planes, system};

/// After this nobody works any more on what was begun, and whoever waited was told.
const QUIET: Duration = Duration::from_secs(600);

/// How often somebody deletes a sandbox before it counts as one that cannot be deleted.
const DELETIONS: u32 = 6;

type Client = HostAgentServiceClient<ServiceTransport<InProcess>>;

/// Everybody who uses the installation, and what they remember.
#[derive(Clone)]
pub struct Users {
    world: World,
    records: Records,
    asked: Asked,
    callee: Callee,
    client: Client,
    sandboxes: Vec<Option<SandboxId>>,
    snapshots: Vec<Option<(SnapshotId, SandboxId)>>,
    /// How far the wall clock is off.
    set_by: i64,
    /// How far it was set back, all in all: what is recorded of the time before is young for so much longer.
    set_back: u64,
}

impl Users {
    /// Who has done nothing yet.
    pub fn new(world: World) -> Self {
        let records = Records::new().expect("SQLite keeps tables in memory");
        let (asked, callee) = (Asked::default(), Callee::default());
        let calls = line(world.clone(), Life::new(Program::User, 1), callee.clone());
        let config = ClientConfig::new(http::Uri::from_static("http://localhost"));
        let client = HostAgentServiceClient::new(ServiceTransport::new(calls), config);
        let slots = usize::try_from(SLOTS).unwrap_or_default();
        let (sandboxes, snapshots) = (vec![None; slots], vec![None; slots]);
        Self { world, records, asked, callee, client, sandboxes, snapshots, set_by: 0, set_back: 0 }
    }

    /// Does all that a history says, and looks at what came of it.
    pub async fn live(mut self, history: &History) {
        host::prepare(&self.world.state().data_dir);
        tokio::spawn(host::keep_alive(self.world.clone(), self.callee.clone()));
        let (world, records) = (self.world.clone(), self.records.clone());
        tokio::spawn(planes::keep_alive(world, records, self.callee.clone(), self.asked.clone()));
        self.control_plane().await;
        let climate = history.climate;
        let weather = Weather {
            lost: climate.lost,
            doubled: climate.doubled,
            late: climate.late,
            busy: climate.busy,
            ..Weather::default()
        };
        self.world.state().weather = weather;
        for step in &history.steps {
            tokio::time::sleep(step.after).await;
            self.world.note(step);
            self.perform(step.event).await;
        }
        self.calm().await;
        let on_host = self.on_host().await;
        laws::check_quiet(&self.world, &self.records, &on_host);
        self.check_writes(&on_host).await;
        self.delete_all().await;
        let on_host = self.on_host().await;
        laws::check_empty(&self.world, &self.records, &on_host);
    }

    /// Nothing goes wrong any more, and everything has had its time.
    async fn calm(&mut self) {
        {
            let mut state = self.world.state();
            (state.weather, state.agent_ends, state.control_plane_ends) = (Weather::default(), None, None);
            state.note("all is calm");
        }
        self.set_back += self.set_by.max(0).unsigned_abs();
        system::set_wall_clock(-self.set_by);
        tokio::time::sleep(QUIET + Duration::from_secs(self.set_back)).await;
        self.control_plane().await;
        tokio::time::sleep(2 * PERIOD).await;
    }

    /// The control plane, as soon as one can be asked.
    async fn control_plane(&self) -> SimulatedControlPlane {
        loop {
            if let Some(asked) = self.asked_now() {
                return asked;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn asked_now(&self) -> Option<SimulatedControlPlane> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        asked.filter(|(life, _)| !life.is_over()).map(|(_, control_plane)| control_plane)
    }

    /// Asks without waiting for the answer, and does something with it.
    fn ask<T: Send + 'static, Answer>(
        &self,
        what: String,
        ask: impl FnOnce(SimulatedControlPlane) -> Answer + Send + 'static,
        then: impl FnOnce(&World, &Result<T, Failure>) + Send + 'static,
    ) where
        Answer: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let Some(control_plane) = self.asked_now() else { return self.world.note(format_args!("{what}: nobody")) };
        let world = self.world.clone();
        tokio::spawn(async move {
            let answer = ask(control_plane).await;
            then(&world, &answer);
            match answer {
                Ok(_) => world.note(format_args!("{what}: done")),
                Err(failure) => world.note(format_args!("{what}: {}", failure.message)),
            }
        });
    }

    async fn perform(&mut self, event: Event) {
        match event {
            Event::Create(slot, span) => self.create(slot, span),
            Event::CreateFrom(slot, from) => self.create_from(slot, from),
            Event::Pause(slot) => self.change(slot, "pause", async |asked, id| asked.pause(id).await.map(drop)),
            Event::Stop(slot) => {
                self.lets_be_stopped(slot);
                self.change(slot, "stop", async |asked, id| asked.stop(id).await.map(drop));
            }
            Event::Restart(slot) => {
                self.lets_be_stopped(slot);
                self.change(slot, "restart", async |asked, id| asked.restart(id).await.map(drop));
            }
            Event::Resume(slot) => self.change(slot, "resume", async |asked, id| asked.resume(id).await.map(drop)),
            Event::Delete(slot) => {
                self.excuse(slot, "deleted");
                self.change(slot, "delete", async |asked, id| asked.delete(id).await);
            }
            Event::Snapshot(slot) => self.snapshot(slot, Extent::Full),
            Event::SnapshotDisk(slot) => self.snapshot(slot, Extent::Disk),
            Event::DeleteSnapshot(slot) => {
                let Some((snapshot, _)) = self.snapshots[slot].take() else { return };
                let what = format!("delete snapshot of {slot}");
                self.ask(what, async move |asked| asked.delete_snapshot(snapshot).await, |_, _| {});
            }
            Event::Fork(slot, child) => self.fork(slot, child),
            Event::Write(slot) => self.write(slot),
            Event::Read(slot) => self.read(slot),
            Event::KillMonitor(slot) => {
                self.excuse(slot, "its monitor ended by itself");
                self.kill_monitor(slot);
            }
            Event::EndAgent(arm) => self.world.state().agent_ends = Some(arm),
            Event::EndControlPlane(arm) => self.world.state().control_plane_ends = Some(arm),
            Event::Cut(seconds) => self.spell(seconds, |weather, is| weather.is_cut = is),
            Event::StoreAway(seconds) => self.spell(seconds, |weather, is| weather.is_store_away = is),
            Event::DiskFull(seconds) => self.spell(seconds, |weather, is| weather.is_disk_full = is),
            Event::SetClock(by) => self.set_clock(by).await,
        }
    }

    fn spell(&self, seconds: u64, set: impl Fn(&mut Weather, bool) + Send + 'static) {
        set(&mut self.world.state().weather, true);
        let world = self.world.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            set(&mut world.state().weather, false);
        });
    }

    async fn set_clock(&mut self, by: i64) {
        self.set_by += by;
        self.set_back += by.min(0).unsigned_abs();
        system::set_wall_clock(by);
        if by > 0 && self.world.has(Bug::WallClock) {
            let skipped = Duration::from_secs(by.unsigned_abs());
            self.world.state().skipped += skipped;
            tokio::time::advance(skipped).await;
        }
    }

    /// A sandbox that is to be made in a slot, unless there is one.
    fn subject(&mut self, slot: usize, span: Span) -> Option<(Subject, Wish)> {
        let is_free = |id: &SandboxId| self.world.state().subjects[id].excuse == Some("deleted");
        if !self.sandboxes[slot].as_ref().is_none_or(is_free) {
            return None;
        }
        let (idle, on_expiry) = match span {
            Span::Long => (None, OnExpiry::Destroy),
            Span::Destroyed(seconds) => (Some(Duration::from_secs(seconds)), OnExpiry::Destroy),
            Span::Paused(seconds) => (Some(Duration::from_secs(seconds)), OnExpiry::Pause),
            Span::Stopped(seconds) => (Some(Duration::from_secs(seconds)), OnExpiry::Stop),
        };
        let wish = Wish {
            id: SandboxId::random(),
            template: TEMPLATE.parse().expect("the constant is a name"),
            shape: shape(),
            lifetime: idle.map_or(Lifetime::Never, Lifetime::Idle),
            on_expiry,
            snapshot: None,
        };
        Some((Subject::new(idle, on_expiry, self.world.now()), wish))
    }

    fn enter(&mut self, slot: usize, id: SandboxId, subject: Subject) {
        self.world.note(format_args!("{slot} is {id}"));
        self.world.state().subjects.insert(id.clone(), subject);
        self.sandboxes[slot] = Some(id);
    }

    fn create(&mut self, slot: usize, span: Span) {
        let Some((subject, wish)) = self.subject(slot, span) else { return };
        let id = wish.id.clone();
        self.enter(slot, id.clone(), subject);
        self.ask(
            format!("create {slot}"),
            async move |asked| asked.create(wish).await,
            move |world, made| {
                made_known(world, &id, made.is_ok());
            },
        );
    }

    fn create_from(&mut self, slot: usize, from: usize) {
        let Some((snapshot, parent)) = self.snapshots[from].clone() else { return };
        let Some((subject, wish)) = self.subject(slot, Span::Long) else { return };
        let parent = self.world.state().subjects[&parent].clone();
        let wish = Wish { snapshot: Some(snapshot), ..wish };
        let id = wish.id.clone();
        self.enter(slot, id.clone(), subject.after(&parent));
        self.ask(
            format!("create {slot} from {from}"),
            async move |asked| asked.create(wish).await,
            move |world, made| {
                made_known(world, &id, made.is_ok());
            },
        );
    }

    fn fork(&mut self, slot: usize, child: usize) {
        let Some(parent) = self.sandboxes[slot].clone() else { return };
        let Some((subject, wish)) = self.subject(child, Span::Long) else { return };
        let of_parent = self.world.state().subjects[&parent].clone();
        let id = wish.id.clone();
        // A child lives as its parent does.
        let (idle, on_expiry) = (of_parent.idle, of_parent.on_expiry);
        let may_be_stopped = on_expiry == OnExpiry::Stop;
        let subject = Subject { idle, on_expiry, may_be_stopped, ..subject.after(&of_parent) };
        self.enter(child, id.clone(), subject);
        let told = id.clone();
        self.ask(
            format!("fork {slot}"),
            async move |asked| asked.fork(parent, id).await,
            move |world, made| {
                made_known(world, &told, made.is_ok());
            },
        );
    }

    fn snapshot(&mut self, slot: usize, extent: Extent) {
        let Some(id) = self.sandboxes[slot].clone() else { return };
        let snapshot = SnapshotId::random();
        // What it is to hold is what was acknowledged until now.
        let at_that_time = self.world.state().subjects[&id].clone();
        let frozen: SandboxId = format!("at-{snapshot}").parse().expect("an id with something before it is one");
        let keep = Subject { excuse: Some("a snapshot"), ..at_that_time };
        self.world.state().subjects.insert(frozen.clone(), keep);
        self.snapshots[slot] = Some((snapshot.clone(), frozen));
        let what = format!("snapshot {slot} {extent:?}");
        self.ask(what, async move |asked| asked.snapshot(id, snapshot, extent).await, |_, _| {});
    }

    fn change<Answer>(
        &self,
        slot: usize,
        what: &'static str,
        ask: impl FnOnce(SimulatedControlPlane, SandboxId) -> Answer + Send + 'static,
    ) where
        Answer: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let Some(id) = self.sandboxes[slot].clone() else { return };
        let now = self.world.now();
        if let Some(subject) = self.world.state().subjects.get_mut(&id) {
            (subject.is_disturbed, subject.perhaps_used) = (true, now);
        }
        let told = id.clone();
        self.ask(format!("{what} {slot}"), move |asked| ask(asked, id), move |world, _| perhaps_used(world, &told));
    }

    fn lets_be_stopped(&self, slot: usize) {
        let Some(id) = &self.sandboxes[slot] else { return };
        if let Some(subject) = self.world.state().subjects.get_mut(id) {
            subject.may_be_stopped = true;
        }
    }

    fn excuse(&self, slot: usize, why: &'static str) {
        let Some(id) = &self.sandboxes[slot] else { return };
        if let Some(subject) = self.world.state().subjects.get_mut(id) {
            subject.excuse = Some(why);
            subject.is_disturbed = true;
        }
    }

    fn write(&self, slot: usize) {
        let Some(id) = self.sandboxes[slot].clone() else { return };
        let now = self.world.now();
        let number = {
            let mut state = self.world.state();
            let Some(subject) = state.subjects.get_mut(&id) else { return };
            subject.tried += 1;
            subject.perhaps_used = now;
            subject.tried
        };
        let (world, client) = (self.world.clone(), self.client.clone());
        tokio::spawn(async move {
            let request = WriteFileRequest {
                sandbox_id: id.to_string(),
                path: path(number),
                content: number.to_string().into_bytes(),
                ..Default::default()
            };
            let written = client.write_file(request).await;
            perhaps_used(&world, &id);
            match written {
                Ok(_) => {
                    let now = world.now();
                    if let Some(subject) = world.state().subjects.get_mut(&id) {
                        subject.acknowledged.insert(number);
                        subject.used = subject.used.max(now.saturating_sub(Duration::from_secs(60)));
                    }
                    world.note(format_args!("write {number} to {slot}: done"));
                }
                Err(error) => world.note(format_args!("write {number} to {slot}: {:?}", error.code)),
            }
        });
    }

    fn read(&self, slot: usize) {
        let Some(id) = self.sandboxes[slot].clone() else { return };
        let now = self.world.now();
        if let Some(subject) = self.world.state().subjects.get_mut(&id) {
            subject.perhaps_used = now;
        }
        let (world, client) = (self.world.clone(), self.client.clone());
        tokio::spawn(async move {
            let request = ReadFileRequest { sandbox_id: id.to_string(), path: path(1), ..Default::default() };
            let read = client.read_file(request).await;
            perhaps_used(&world, &id);
            world.note(format_args!("read {slot}: {}", if read.is_ok() { "done" } else { "failed" }));
        });
    }

    fn kill_monitor(&self, slot: usize) {
        let Some(id) = &self.sandboxes[slot] else { return };
        let number = {
            let state = self.world.state();
            let found = state.guests.iter().find(|(_, guest)| state.networks.get(&guest.slot) == Some(id));
            found.map(|(number, _)| *number)
        };
        if let Some(number) = number {
            monitor::end(&self.world, number);
        }
    }

    /// What the host has, by its own word.
    async fn on_host(&self) -> BTreeMap<SandboxId, Status> {
        loop {
            if let Ok(reply) = self.client.list_sandboxes(ListSandboxesRequest::default()).await {
                let list = reply.into_owned().sandboxes;
                let parsed = list.iter().map(|info| Some((info.sandbox_id.parse().ok()?, info.status.parse().ok()?)));
                return parsed.collect::<Option<_>>().expect("the host agent lists sandboxes that make sense");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Every write that was acknowledged is there, also where the sandbox is paused or stopped.
    async fn check_writes(&self, on_host: &BTreeMap<SandboxId, Status>) {
        let subjects = self.world.state().subjects.clone();
        for (id, subject) in subjects.iter().filter(|(id, _)| on_host.contains_key(*id)) {
            if on_host[id] == Status::Error || subject.acknowledged.is_empty() {
                continue;
            }
            if on_host[id] != Status::Running {
                let resumed = self.control_plane().await.resume(id.clone()).await;
                if let Err(failure) = resumed {
                    let how = format!("{id} is {}: {}", on_host[id], failure.message);
                    self.world.violated("a paused or stopped sandbox can be resumed", how);
                    continue;
                }
            }
            for number in &subject.acknowledged {
                let request = ReadFileRequest { sandbox_id: id.to_string(), path: path(*number), ..Default::default() };
                let read = self.client.read_file(request).await.map(|reply| reply.into_owned().content);
                match read {
                    Ok(content) if content == number.to_string().as_bytes() => {}
                    Ok(_) => self.world.violated("no acknowledged write is lost", format!("{number} of {id}")),
                    Err(error) => self.world.violated("no acknowledged write is lost", format!("{id}: {error}")),
                }
            }
        }
    }

    /// Everybody deletes all that they have.
    async fn delete_all(&self) {
        let rows = self.records.all().unwrap_or_default();
        for row in rows {
            let mut deleted = Ok(());
            self.world.note(format_args!("deleting {}", row.id));
            if let Some(subject) = self.world.state().subjects.get_mut(&row.id) {
                (subject.excuse, subject.is_disturbed) = (Some("deleted"), true);
            }
            for _ in 0..DELETIONS {
                deleted = self.control_plane().await.delete(row.id.clone()).await;
                if deleted.is_ok() {
                    break;
                }
            }
            if let Err(failure) = deleted {
                self.world.violated("a delete ends", format!("{} ({}): {}", row.id, row.status, failure.message));
            }
        }
        for snapshot in self.records.snapshots().unwrap_or_default() {
            if let Err(failure) = self.control_plane().await.delete_snapshot(snapshot.clone()).await {
                self.world.violated("a delete ends", format!("{snapshot}: {}", failure.message));
            }
        }
        tokio::time::sleep(2 * PERIOD).await;
    }
}

fn made_known(world: &World, id: &SandboxId, is_made: bool) {
    let now = world.now();
    if let Some(subject) = world.state().subjects.get_mut(id) {
        subject.is_made |= is_made;
        subject.perhaps_used = now;
    }
}

fn perhaps_used(world: &World, id: &SandboxId) {
    let now = world.now();
    if let Some(subject) = world.state().subjects.get_mut(id) {
        subject.perhaps_used = now;
    }
}

/// Where a write goes.
fn path(number: u64) -> String {
    format!("/{number}")
}

fn shape() -> Shape {
    ShapeRequest { vcpus: 1, memory_mb: 128, disk_mb: 256 }.try_into().expect("a small shape is legal")
}
