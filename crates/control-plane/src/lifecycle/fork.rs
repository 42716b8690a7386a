//! Forks: children that go on from where their parent is, which goes on too.
//!
//! A fork is a snapshot that nobody sees, creates from it, and its removal. All children come to be or none, unless who
//! asks takes each by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use jiff::Timestamp;
use model::{Event, Extent, NetworkPolicy, OwnerId, SandboxId, SnapshotId, SnapshotKind, StartMode, transition};

use super::deadline::after;
use super::{Lifecycle, LifecycleError, Making, WhileBuilding};
use crate::store::{Action, EventKind, Naming, Needed, NewSandbox, Sandbox, Shift, Snapshot};

/// A child needs no template, and comes from its parent's snapshot by the only way there is.
const FORKED: Making = Making { while_building: WhileBuilding::Refuse, start: StartMode::Auto };

/// What children with a time of their own have beside it until all are there, so that none ends before anybody knows of it.
const WHILE_OTHERS_ARE_MADE: Duration = Duration::from_secs(300);

/// Children that are made, or undone, at the same time.
const AT_ONCE: usize = 8;

impl Lifecycle {
    /// Makes children with these ids out of a running or paused sandbox, and answers when every one runs.
    pub async fn fork(
        &self,
        owner: OwnerId,
        parent: SandboxId,
        children: Vec<SandboxId>,
    ) -> Result<Vec<Sandbox>, LifecycleError> {
        let this = self.clone();
        self.detached("fork", async move { this.fork_now(owner, parent, children).await }).await
    }

    /// The same, where what becomes of one child says nothing of the others, and each has `time` from when all are there.
    /// Fails only where none was begun; of a child that failed nothing is left.
    pub async fn fork_each(
        &self,
        owner: OwnerId,
        parent: SandboxId,
        children: Vec<SandboxId>,
        time: Duration,
    ) -> Result<Vec<Result<Sandbox, LifecycleError>>, LifecycleError> {
        let this = self.clone();
        self.detached("fork", async move { this.fork_each_now(owner, parent, children, time).await }).await
    }

    async fn fork_now(
        &self,
        owner: OwnerId,
        parent: SandboxId,
        children: Vec<SandboxId>,
    ) -> Result<Vec<Sandbox>, LifecycleError> {
        let (pending, hidden) = self.begin_fork(owner, parent, children, None).await?;
        let made = self.make_all(&pending).await;
        self.end_hidden(hidden).await;
        match made {
            Ok(children) => Ok(children),
            Err(error) => Err(self.undo_all(&pending, error).await),
        }
    }

    async fn fork_each_now(
        &self,
        owner: OwnerId,
        parent: SandboxId,
        children: Vec<SandboxId>,
        time: Duration,
    ) -> Result<Vec<Result<Sandbox, LifecycleError>>, LifecycleError> {
        let until = after(time.saturating_add(WHILE_OTHERS_ARE_MADE));
        let (pending, hidden) = self.begin_fork(owner, parent, children, Some(until)).await?;
        let make = |child: Sandbox| self.make(child, FORKED);
        let made: Vec<_> = stream::iter(pending.iter().cloned()).map(make).buffered(AT_ONCE).collect().await;
        self.end_hidden(hidden).await;
        let mut forked = Vec::with_capacity(made.len());
        for (child, made) in pending.into_iter().zip(made) {
            let timed = match made {
                Ok(made) => self.set_time(&made.owner, &made.id, time, Shift::Any).await,
                Err(error) => Err(error),
            };
            forked.push(match timed {
                Ok(child) => Ok(child),
                // Nobody hears of it.
                Err(error) => Err(self.undo_all(&[child], error).await),
            });
        }
        Ok(forked)
    }

    /// The children's records, and what they are made from. Where that cannot be had there are none. They end when their
    /// parent does, unless it is said when.
    async fn begin_fork(
        &self,
        owner: OwnerId,
        parent: SandboxId,
        children: Vec<SandboxId>,
        until: Option<Timestamp>,
    ) -> Result<(Vec<Sandbox>, Snapshot), LifecycleError> {
        let parent = self.store.get(&owner, &parent).await?.ok_or(LifecycleError::NotFound)?;
        transition(parent.status, Event::SnapshotRequested)?;
        let snapshot = SnapshotId::random();
        let network = self.store.network_policy(&parent)?;
        let mut pending = Vec::with_capacity(children.len());
        for id in children {
            let mut new = child(id, &parent, network.clone(), &snapshot);
            new.ends_at = until.or(new.ends_at);
            match self.store.insert(&new).await {
                Ok(child) => pending.push(child),
                Err(error) => return Err(self.undo_all(&pending, error.into()).await),
            }
        }
        match self.capture(&parent, snapshot, SnapshotKind::Fork, Naming::Unnamed, Extent::Full).await {
            Ok(completed) => Ok((pending, completed.snapshot)),
            Err(error) => Err(self.undo_all(&pending, error).await),
        }
    }

    /// Once one child cannot be made, no other is begun.
    async fn make_all(&self, pending: &[Sandbox]) -> Result<Vec<Sandbox>, LifecycleError> {
        let has_failed = AtomicBool::new(false);
        let has_failed = &has_failed;
        let make = |child: Sandbox| async move {
            if has_failed.load(Ordering::Relaxed) {
                return None;
            }
            let made = self.make(child, FORKED).await;
            has_failed.fetch_or(made.is_err(), Ordering::Relaxed);
            Some(made)
        };
        let made: Vec<_> = stream::iter(pending.iter().cloned()).map(make).buffered(AT_ONCE).collect().await;
        made.into_iter().flatten().collect()
    }

    /// The children have what they need of it.
    async fn end_hidden(&self, hidden: Snapshot) {
        match self.store.condemn_snapshot(&hidden, Needed::DoesNotMatter).await {
            Ok(Some(condemned)) => self.discard_or_leave(condemned, None).await,
            // The reconciler was quicker.
            Ok(None) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(snapshot = %hidden.id, error, "a fork's snapshot is left to the reconciler");
            }
        }
    }

    /// Leaves nothing of any child, and returns the error that this is because of.
    async fn undo_all(&self, pending: &[Sandbox], because: LifecycleError) -> LifecycleError {
        let why = &because.to_string();
        let undo = |child: Sandbox| async move {
            let action = Action::failed(EventKind::Create, why.clone());
            let undone = match self.store.forget(&child, action).await {
                // It is not pending any more: it runs, or the host may have something of it.
                Ok(false) => match self.delete_now(child.owner.clone(), child.id.clone()).await {
                    Err(LifecycleError::NotFound) => Ok(()),
                    other => other,
                },
                Ok(true) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = undone {
                self.nudge.notify_one();
                let error = &error as &dyn std::error::Error;
                tracing::error!(sandbox = %child.id, error, "a child of a fork that failed may still be there");
            }
        };
        stream::iter(pending.iter().cloned()).map(undo).buffer_unordered(AT_ONCE).collect::<()>().await;
        because
    }
}

/// A child is what its parent is, under another id.
fn child(id: SandboxId, parent: &Sandbox, network: NetworkPolicy, snapshot: &SnapshotId) -> NewSandbox {
    let guest_access = parent.guest_access.renewed();
    // A token that goes with the one for the guest agent is the child's own too.
    let traffic_token = match (&parent.traffic_token, guest_access.token()) {
        (Some(_), Some(token)) => Some(token.traffic_token().hash()),
        (shared, _) => shared.clone(),
    };
    NewSandbox {
        id,
        owner: parent.owner.clone(),
        host: parent.host.clone(),
        template: parent.template.clone(),
        snapshot: Some(snapshot.clone()),
        shape: parent.shape,
        lifetime: parent.lifetime,
        on_expiry: parent.on_expiry,
        auto_resume: parent.auto_resume,
        traffic_token,
        metadata: parent.metadata.clone(),
        network,
        request_host: parent.request_host.clone(),
        https_ports: parent.https_ports.clone(),
        guest_access,
        env: parent.env.clone(),
        ends_at: parent.ends_at,
    }
}
