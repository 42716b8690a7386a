//! The owner task: the only code that changes a sandbox's state. It makes the sandbox, then takes commands one at a
//! time, watches the virtual machine and the clock, and ends when nothing of the sandbox is left.

mod changes;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use model::{Event, Lifetime, OnExpiry, Status, transition};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use vmm::Vm;

use super::activity::{Activity, Expiry};
use super::attend::attend;
use super::capture::Capture;
use super::metrics::{Metrics, Subject};
use super::parts::Parts;
use super::record::Record;
use super::{
    CaptureError, Captured, Command, CreateError, DestroyError, Handle, NetworkError, OnClose, QUEUE, SandboxSpec,
    SharedMachine, TransitionError, View,
};
use crate::blocking;
use crate::host::Host;

/// Until a deletion that left something is tried again by itself.
pub(super) const RETRY_DELETE: Duration = Duration::from_secs(5);

type DestroyReply = oneshot::Sender<Result<(), DestroyError>>;

/// All that belongs to a sandbox.
pub(super) struct Owner {
    host: Arc<Host>,
    spec: SandboxSpec,
    created_at: SystemTime,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    activity: Arc<Activity>,
    machine: SharedMachine,
    metrics: Arc<Metrics>,
    /// Attends to the virtual machine that there is now.
    attendant: Option<AbortOnDropHandle<()>>,
    parts: Parts,
    /// Why the create did not work.
    failure: Option<CreateError>,
}

/// What is still to be said once nothing is left of a sandbox and nobody can find it any more.
pub(super) struct Farewell {
    view: watch::Sender<View>,
    failure: Option<CreateError>,
    waiting: Vec<DestroyReply>,
}

/// A sandbox that is pending, and its owner, to be run.
pub(super) fn new(host: Arc<Host>, spec: SandboxSpec) -> (Handle, Owner) {
    with(host, spec, SystemTime::now(), Parts::default(), Status::Pending)
}

/// A sandbox that an earlier host agent has made, and its owner, to be run. Its guest can be talked to at once.
pub(super) fn adopted(host: Arc<Host>, record: &Record, parts: Parts, status: Status) -> (Handle, Owner) {
    let (handle, mut owner) = with(host, record.spec.clone(), record.created_at(), parts, status);
    owner.show_guest();
    (handle, owner)
}

fn with(host: Arc<Host>, spec: SandboxSpec, created_at: SystemTime, parts: Parts, status: Status) -> (Handle, Owner) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let (view, receiver) = watch::channel(View { status, host_ip: None, failure: None });
    let activity = Activity::new();
    let machine = SharedMachine::default();
    let handle = Handle {
        spec: spec.clone(),
        created_at,
        commands: sender,
        view: receiver,
        activity: activity.clone(),
        machine: machine.clone(),
        metrics: Arc::default(),
    };
    let metrics = handle.metrics.clone();
    let (attendant, failure) = (None, None);
    (handle, Owner { host, spec, created_at, commands, view, activity, machine, metrics, attendant, parts, failure })
}

/// Why the time of taking commands is over.
enum Ending {
    /// Someone asked for it, or the sandbox expired.
    Delete(Option<DestroyReply>),
    /// The virtual machine is gone.
    Lost,
    /// The host agent ends, and the sandbox runs on or stays on disk.
    Leave(DestroyReply),
}

/// What is then to be done.
enum Last {
    /// Nothing of it stays. These wait for that.
    Delete(Vec<DestroyReply>),
    /// It runs on, or stays on disk.
    Leave(DestroyReply),
}

impl Owner {
    /// The whole life of the sandbox, up to when nothing of it is left. A defect of ours that panics ends the life, not
    /// the ownership: what the sandbox has is still removed by its owner. There is no farewell from one that stays.
    pub async fn run(mut self) -> Option<Farewell> {
        let last = AssertUnwindSafe(self.live()).catch_unwind().await;
        self.end(last.ok()).await
    }

    /// After its last command; none where our defect ended the taking of commands.
    async fn end(mut self, last: Option<Last>) -> Option<Farewell> {
        match last {
            Some(Last::Leave(reply)) => {
                let has_left = match self.status() {
                    Status::Running => Ok(()),
                    _ => self.parts.remove_network().await,
                };
                answer(reply, has_left);
                None
            }
            Some(Last::Delete(waiting)) => Some(self.delete(waiting).await),
            None => {
                tracing::error!(sandbox = %self.spec.id, "the owner task panicked; its sandbox is given up");
                let waiting = self.mourn().await.into_iter().collect();
                Some(self.delete(waiting).await)
            }
        }
    }

    /// From the create, or from when it was adopted, to when it is to end.
    async fn live(&mut self) -> Last {
        let mut waiting = Vec::new();
        match self.status() {
            Status::Pending => waiting = self.create().await,
            Status::Snapshotting => self.make_right().await,
            _ => {}
        }
        let ending = match self.status() {
            Status::Pending => Ending::Delete(None),
            // Lost before it was adopted.
            Status::Error => Ending::Lost,
            _ => self.serve().await,
        };
        match ending {
            Ending::Leave(reply) => return Last::Leave(reply),
            Ending::Delete(reply) => waiting.extend(reply),
            Ending::Lost => waiting.extend(self.mourn().await),
        }
        Last::Delete(waiting)
    }

    /// What an earlier host agent had begun with a sandbox that goes on is undone.
    async fn make_right(&mut self) {
        if let Err(error) = self.parts.make_right(&self.host).await {
            // Where the monitor is gone that is noticed on its own.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(sandbox = %self.spec.id, error, "what the last host agent had begun was not undone");
        }
        self.publish(Event::RolledBack);
    }

    /// Makes the sandbox while commands are heard: a delete cancels. Returns those who wait for the deletion.
    async fn create(&mut self) -> Vec<DestroyReply> {
        let cancel = CancellationToken::new();
        let mut waiting = Vec::new();
        let Self { host, spec, created_at, parts, commands, .. } = self;
        let result = {
            let build = parts.build(host, spec, *created_at, &cancel);
            tokio::pin!(build);
            loop {
                tokio::select! {
                    result = &mut build => break result,
                    Some(command) = commands.recv() => {
                        if let Some(reply) = refuse_unless_delete(command, Status::Pending) {
                            cancel.cancel();
                            waiting.push(reply);
                        }
                    }
                }
            }
        };
        match result {
            Ok(()) if waiting.is_empty() => self.become_running(),
            Ok(()) => {}
            Err(error) => self.fail(error),
        }
        waiting
    }

    fn become_running(&mut self) {
        self.show_guest();
        self.activity.renew();
        self.publish(Event::Ready);
    }

    /// Lets callers talk to the guest that there is now, if any, and attends to it.
    fn show_guest(&mut self) {
        let host_ip = self.parts.host_ip();
        self.view.send_modify(|view| view.host_ip = host_ip);
        *self.machine.lock().unwrap_or_else(PoisonError::into_inner) = self.parts.running();
        let attend = |subject| tokio::spawn(attend(subject, self.view.subscribe(), self.metrics.clone()));
        self.attendant = self.subject().map(attend).map(AbortOnDropHandle::new);
    }

    /// What there is to attend to.
    fn subject(&self) -> Option<Subject> {
        Some(Subject {
            pid: self.parts.vm()?.process().pid()?,
            vcpus: self.spec.shape.vcpus.get(),
            memory_limit: u64::from(self.spec.shape.memory.get()) << 20,
            overlay: self.parts.overlay()?,
            guest: self.parts.guest()?.clone(),
        })
    }

    /// The caller hears of the failure only when nothing is left, so it is kept aside.
    fn fail(&mut self, error: CreateError) {
        if !matches!(error, CreateError::Deleted) {
            tracing::warn!(sandbox = %self.spec.id, error = &error as &dyn std::error::Error, "a create failed");
            self.failure = Some(error);
        }
    }

    /// Takes commands until the sandbox is to end.
    async fn serve(&mut self) -> Ending {
        let is_whole = self.parts.vm().is_some() || matches!(self.status(), Status::Paused | Status::Stopped);
        assert!(is_whole, "a running sandbox has a virtual machine");
        let idle = match self.spec.lifetime {
            Lifetime::Never => None,
            Lifetime::Idle(idle) => Some(idle),
        };
        loop {
            let deadline = idle.filter(|_| self.status() == Status::Running).map(|idle| self.activity.expire(idle));
            if deadline == Some(Expiry::Expired) {
                tracing::info!(sandbox = %self.spec.id, "expired");
                match self.spec.on_expiry {
                    OnExpiry::Destroy => return Ending::Delete(None),
                    OnExpiry::Pause => {
                        let paused = self.pause().await;
                        self.try_again_later(paused);
                    }
                    OnExpiry::Stop => {
                        let stopped = self.stop().await;
                        self.try_again_later(stopped);
                    }
                }
                continue;
            }
            let (vm, names_lost) = (self.parts.vm().cloned(), self.parts.egress_lost());
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Pause(generation, reply)) => match self.parts.hear_of(generation) {
                        Ok(()) => answer(reply, self.pause().await),
                        Err(error) => answer(reply, Err(error)),
                    },
                    Some(Command::Stop(generation, reply)) => match self.parts.hear_of(generation) {
                        Ok(()) => answer(reply, self.stop().await),
                        Err(error) => answer(reply, Err(error)),
                    },
                    Some(Command::Resume(generation, from, reply)) => match self.resume_of(generation, from).await {
                        Ok(result) => answer(reply, result),
                        Err(error) => {
                            answer(reply, Err(error));
                            return Ending::Lost;
                        }
                    },
                    Some(Command::Capture(reservation, extent, reply)) => match self.capture(reservation, extent).await {
                        Ok(capture) => publish_later(capture, reply),
                        Err(error) => answer(reply, Err(error)),
                    },
                    Some(Command::Network(reply)) => answer(reply, self.parts.network_state().await),
                    Some(Command::SetNetwork(policy, reply)) => answer(reply, self.set_network(policy).await),
                    Some(Command::Destroy(reply)) => return Ending::Delete(Some(reply)),
                    Some(Command::Close(on_close, reply)) => return self.close(on_close, reply).await,
                    None => return Ending::Delete(None),
                },
                () = ended(vm.as_deref()) => return Ending::Lost,
                () = names_lost => self.parts.renew_egress(&self.host).await,
                () = at(deadline) => {}
            }
        }
    }

    /// The host agent ends.
    async fn close(&mut self, on_close: OnClose, reply: DestroyReply) -> Ending {
        if self.status() == Status::Running
            && on_close == OnClose::Pause
            && let Err(error) = self.pause().await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(sandbox = %self.spec.id, error, "it could not be paused and is deleted");
        }
        match (self.status(), on_close) {
            (Status::Paused | Status::Stopped, _) | (Status::Running, OnClose::Keep) => Ending::Leave(reply),
            _ => Ending::Delete(Some(reply)),
        }
    }

    /// Of a sandbox that has expired: where what that does to it has failed it runs on, and expires again.
    fn try_again_later(&mut self, done: Result<(), TransitionError>) {
        if let Err(error) = done {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(sandbox = %self.spec.id, error, "it has expired and runs on");
            self.activity.renew();
        }
    }

    /// Nothing can be done with the sandbox any more: gives back what it held and stays, in error, until someone deletes
    /// it.
    async fn mourn(&mut self) -> Option<DestroyReply> {
        let last_words = self.parts.vm().map(|vm| vm.last_words()).unwrap_or_default();
        tracing::warn!(sandbox = %self.spec.id, %last_words, "the sandbox is lost");
        if self.status() != Status::Error {
            self.publish(Event::Failed);
        }
        if let Err(error) = self.parts.dismantle().await {
            tracing::warn!(sandbox = %self.spec.id, error = &error as &dyn std::error::Error, "something is left");
        }
        while let Some(command) = self.commands.recv().await {
            if let Some(reply) = refuse_unless_delete(command, Status::Error) {
                return Some(reply);
            }
        }
        None
    }

    /// Removes everything, as often as it takes.
    async fn delete(mut self, mut waiting: Vec<DestroyReply>) -> Farewell {
        // A failed create stays pending until nothing is left: then its caller hears of both at once.
        if self.failure.is_none() {
            self.publish(Event::DeleteRequested);
        }
        while let Err(error) = self.parts.dismantle().await {
            tracing::warn!(sandbox = %self.spec.id, error = &error as &dyn std::error::Error, "something is left");
            for reply in waiting.drain(..) {
                answer(reply, Err(error.clone()));
            }
            waiting.extend(self.next_try().await);
        }
        Farewell { view: self.view, failure: self.failure, waiting }
    }

    /// Waits until someone deletes the sandbox again, or a while has passed.
    async fn next_try(&mut self) -> Option<DestroyReply> {
        let later = tokio::time::sleep(RETRY_DELETE);
        tokio::pin!(later);
        loop {
            tokio::select! {
                Some(command) = self.commands.recv() => {
                    if let Some(reply) = refuse_unless_delete(command, Status::Stopping) {
                        return Some(reply);
                    }
                }
                () = &mut later => return None,
            }
        }
    }

    fn status(&self) -> Status {
        self.view.borrow().status
    }

    fn publish_legal(&mut self, event: Event) -> Result<(), TransitionError> {
        let status = transition(self.status(), event)?;
        self.view.send_modify(|view| view.status = status);
        Ok(())
    }

    /// For events that follow from what this task has just done, and so are always legal.
    fn publish(&mut self, event: Event) {
        if let Err(error) = self.publish_legal(event) {
            tracing::error!(sandbox = %self.spec.id, %error, "the owner task did what its state forbids");
        }
    }
}

impl Farewell {
    /// Tells everyone who waits.
    pub fn say(self) {
        let failure = self.failure.map(Arc::new);
        self.view.send_modify(|view| match failure {
            Some(failure) => view.failure = Some(failure),
            None => view.status = transition(view.status, Event::Deleted).unwrap_or(Status::Stopped),
        });
        for reply in self.waiting {
            answer(reply, Ok(()));
        }
    }
}

/// Answers every other command that it is not legal in `status`.
fn refuse_unless_delete(command: Command, status: Status) -> Option<DestroyReply> {
    let refused = |event| transition(status, event).map(drop).map_err(TransitionError::from);
    match command {
        Command::Destroy(reply) | Command::Close(_, reply) => return Some(reply),
        Command::Capture(_, _, reply) => {
            if let Err(error) = transition(status, Event::SnapshotRequested) {
                answer(reply, Err(error.into()));
            }
        }
        Command::Network(reply) => answer(reply, Err(NetworkError::NotReady(status))),
        Command::SetNetwork(_, reply) => answer(reply, Err(NetworkError::NotReady(status))),
        Command::Pause(_, reply) => answer(reply, refused(Event::PauseRequested)),
        Command::Resume(_, _, reply) => answer(reply, refused(Event::ResumeRequested)),
        Command::Stop(_, reply) => answer(reply, refused(Event::StopRequested)),
    }
    None
}

/// Makes a capture durable beside whatever the sandbox does meanwhile.
fn publish_later(capture: Capture, reply: oneshot::Sender<Result<Captured, CaptureError>>) {
    blocking::spawn(move || {
        answer(reply, capture.publish().map_err(|error| CaptureError::Failed(error.into())));
    });
}

/// The one who asked may be gone; the answer is then for nobody.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Never returns where there is no monitor that could end.
async fn ended(vm: Option<&dyn Vm>) {
    match vm {
        Some(vm) => vm.process().ended().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Expiry>) {
    match deadline {
        Some(Expiry::NotBefore(instant)) => tokio::time::sleep_until(instant).await,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostConfig;

    async fn host(data_dir: &std::path::Path) -> Arc<Host> {
        let config = HostConfig {
            data_dir: data_dir.to_owned(),
            accelerator: vmm::AcceleratorMode::Tcg,
            qemu: None,
            boot_timeout: Duration::from_secs(30),
            disk_reserve_mb: 0,
            limits: Default::default(),
            pool: crate::sandbox::PoolMode::Off,
            uid_base: 2_000_000_000,
            traffic: Default::default(),
            disk_limits: Default::default(),
            allow_degraded_jail: crate::jail::Layer::ALL.to_vec(),
            guest_agent: b"",
        };
        Arc::new(Host::open(config).await.unwrap())
    }

    /// An owner that believes to be running and has no virtual machine: no such thing can be made, so serving panics.
    async fn defect(data_dir: &std::path::Path) -> (Handle, Owner) {
        let spec = SandboxSpec {
            id: model::SandboxId::random(),
            owner: model::OwnerId::nobody(),
            template: "absent".parse().unwrap(),
            shape: model::Shape::default(),
            lifetime: Lifetime::Never,
            on_expiry: OnExpiry::Destroy,
            snapshot: None,
            start: Default::default(),
            network: Default::default(),
            env: Default::default(),
        };
        let (handle, owner) = new(host(data_dir).await, spec);
        owner.view.send_modify(|view| view.status = Status::Running);
        (handle, owner)
    }

    #[tokio::test]
    async fn a_sandbox_whose_owner_panics_is_in_error_and_can_be_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let (mut handle, owner) = defect(directory.path()).await;
        let life = tokio::spawn(owner.run());
        handle.view.wait_for(|view| view.status == Status::Error).await.unwrap();
        let (sender, receiver) = oneshot::channel();
        assert!(handle.commands.send(Command::Destroy(sender)).await.is_ok());
        life.await.unwrap().unwrap().say();
        receiver.await.unwrap().unwrap();
    }
}
