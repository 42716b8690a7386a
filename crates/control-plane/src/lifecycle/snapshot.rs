//! Snapshots of sandboxes: made, completed, removed.
//!
//! A snapshot is recorded before the host is asked for it and forgotten after the host has removed it, so that at any
//! time its record says what there may be on the host. The captured sandbox is `snapshotting` meanwhile, unless it is
//! paused: then nothing has to wait for anything.

use model::{
    Event, Extent, OwnerId, SandboxId, SnapshotId, SnapshotKind, SnapshotName, SnapshotRef, SnapshotStatus, transition,
};

use super::{Lifecycle, LifecycleError};
use crate::store::{Action, Change, Completed, EventKind, Naming, Needed, NewSnapshot, Sandbox, Snapshot, StoreError};

/// A snapshot that cannot be made, used or deleted.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The caller has no such snapshot.
    #[error("snapshot not found")]
    NotFound,
    /// It is being captured or deleted.
    #[error("snapshot {label} is not ready (status: {status})")]
    NotReady {
        /// What it is called.
        label: String,
        /// Its state.
        status: SnapshotStatus,
    },
    /// The caller has another one of that name.
    #[error("there is a snapshot {name} already; overwrite it or choose another name")]
    NameTaken {
        /// The name.
        name: SnapshotName,
    },
    /// A template of the server has that name.
    #[error("there is a template {name}; choose another name")]
    NameOfTemplate {
        /// The name.
        name: SnapshotName,
    },
    /// Sandboxes that came from it still live.
    #[error("snapshot {label} is still needed by {}", list(.sandboxes))]
    Needed {
        /// What it is called.
        label: String,
        /// Which ones.
        sandboxes: Vec<SandboxId>,
    },
    /// Another request took its name while it was captured.
    #[error("snapshot {label} was replaced by another request while it was being captured")]
    Replaced {
        /// What it is called.
        label: String,
    },
}

/// Sandboxes that a message names.
const NAMED: usize = 10;

fn list(sandboxes: &[SandboxId]) -> String {
    let named: Vec<_> = sandboxes.iter().take(NAMED).map(SandboxId::as_str).collect();
    let others = sandboxes.len().saturating_sub(NAMED);
    let others = if others > 0 { format!(" and {others} others") } else { String::new() };
    format!("{}{others}", named.join(", "))
}

impl Naming {
    fn name(&self) -> Option<&SnapshotName> {
        match self {
            Self::Unnamed => None,
            Self::New(name) | Self::Replacing(name, _) => Some(name),
        }
    }
}

impl Lifecycle {
    /// Captures a running or paused sandbox, which goes on as it was.
    pub async fn snapshot(
        &self,
        owner: OwnerId,
        sandbox: SandboxId,
        id: SnapshotId,
        naming: Naming,
        extent: Extent,
    ) -> Result<Snapshot, LifecycleError> {
        let this = self.clone();
        self.detached("snapshot", async move { this.snapshot_now(owner, sandbox, id, naming, extent).await }).await
    }

    async fn snapshot_now(
        &self,
        owner: OwnerId,
        sandbox: SandboxId,
        id: SnapshotId,
        naming: Naming,
        extent: Extent,
    ) -> Result<Snapshot, LifecycleError> {
        let sandbox = self.store.get(&owner, &sandbox).await?.ok_or(LifecycleError::NotFound)?;
        transition(sandbox.status, Event::SnapshotRequested)?;
        if let Some(name) = naming.name() {
            let templates = self.host.describe().await.map_err(LifecycleError::Host)?.templates;
            if templates.iter().any(|template| template == name.as_str()) {
                return Err(SnapshotError::NameOfTemplate { name: name.clone() }.into());
            }
        }
        let completed = self.capture(&sandbox, id, SnapshotKind::Named, naming, extent).await?;
        if let Some(replaced) = completed.replaced {
            let action = Action::done(EventKind::SnapshotDelete);
            self.discard_or_leave(replaced, Some(action)).await;
        }
        Ok(completed.snapshot)
    }

    /// One of an owner's snapshots that sandboxes can be made from.
    pub async fn ready_snapshot(&self, owner: &OwnerId, wanted: &SnapshotRef) -> Result<Snapshot, LifecycleError> {
        let found = self.store.get_snapshot(owner, wanted).await?.ok_or(SnapshotError::NotFound)?;
        match found.status {
            SnapshotStatus::Ready => Ok(found),
            status => Err(SnapshotError::NotReady { label: found.label().to_owned(), status }.into()),
        }
    }

    /// Deletes a snapshot that no live sandbox came from, and answers when nothing of it is left on its host.
    pub async fn delete_snapshot(&self, owner: OwnerId, wanted: SnapshotRef) -> Result<(), LifecycleError> {
        let this = self.clone();
        self.detached("delete_snapshot", async move { this.delete_snapshot_now(owner, wanted).await }).await
    }

    async fn delete_snapshot_now(&self, owner: OwnerId, wanted: SnapshotRef) -> Result<(), LifecycleError> {
        let seen = self.store.get_snapshot(&owner, &wanted).await?.ok_or(SnapshotError::NotFound)?;
        let label = seen.label().to_owned();
        let condemned = match seen.status {
            SnapshotStatus::Pending => return Err(SnapshotError::NotReady { label, status: seen.status }.into()),
            SnapshotStatus::Deleting => seen,
            SnapshotStatus::Ready => match self.store.condemn_snapshot(&seen, Needed::Matters).await? {
                Some(condemned) => condemned,
                None => {
                    let sandboxes = self.store.users_of(&seen).await?;
                    let is_needed = !sandboxes.is_empty();
                    let needed = SnapshotError::Needed { label, sandboxes };
                    return Err(if is_needed { needed.into() } else { LifecycleError::Race(None) });
                }
            },
        };
        let deleted = self.discard(&condemned, Some(Action::done(EventKind::SnapshotDelete))).await;
        if let Err(LifecycleError::Host(error)) = &deleted {
            let failed = Action::failed(EventKind::SnapshotDelete, error.to_string());
            self.store.record_snapshot_action(&condemned, failed).await?;
        }
        deleted
    }

    /// Removes a snapshot that its owner has not used for too long, or has too many of; not one that something needs by
    /// now. Returns whether it is gone.
    pub async fn expire_snapshot(&self, seen: Snapshot, reason: String) -> Result<bool, LifecycleError> {
        let this = self.clone();
        let work = async move {
            let Some(condemned) = this.store.condemn_snapshot(&seen, Needed::Matters).await? else { return Ok(false) };
            let action = Action::by_itself(EventKind::SnapshotDelete, &reason);
            this.discard(&condemned, Some(action)).await.map(|()| true)
        };
        self.detached("delete_snapshot", work).await
    }

    /// Records the snapshot, has the host capture the sandbox, and records that too.
    pub(super) async fn capture(
        &self,
        sandbox: &Sandbox,
        id: SnapshotId,
        kind: SnapshotKind,
        naming: Naming,
        extent: Extent,
    ) -> Result<Completed, LifecycleError> {
        let name = naming.name().cloned();
        let new = NewSnapshot {
            id,
            owner: sandbox.owner.clone(),
            host: sandbox.host.clone(),
            sandbox: sandbox.id.clone(),
            kind,
            naming,
            template: sandbox.template.clone(),
            shape: sandbox.shape,
        };
        let pending = match (self.store.insert_snapshot(&new).await?, name) {
            (Some(pending), _) => pending,
            (None, Some(name)) => return Err(SnapshotError::NameTaken { name }.into()),
            (None, None) => return Err(LifecycleError::Race(None)),
        };
        let held = match self.hold(sandbox).await {
            Ok(held) => held,
            Err(error) => {
                self.store.forget_snapshot(&pending, None).await?;
                return Err(error);
            }
        };
        let captured = self.host.create_snapshot(&sandbox.id, &pending.id, extent).await;
        let event = if captured.is_ok() { Event::Captured } else { Event::RolledBack };
        self.release(&held, event).await?;
        match captured {
            Ok(size_bytes) => {
                let action = (kind == SnapshotKind::Named).then(|| Action::done(EventKind::SnapshotCreate));
                let completed = self.store.complete_snapshot(&pending, size_bytes, action).await?;
                completed.ok_or_else(|| SnapshotError::Replaced { label: pending.label().to_owned() }.into())
            }
            Err(error) => {
                self.nudge.notify_one();
                self.undo_capture(pending, error.to_string()).await?;
                Err(LifecycleError::Host(error))
            }
        }
    }

    /// The sandbox as it is while it is captured.
    async fn hold(&self, sandbox: &Sandbox) -> Result<Sandbox, LifecycleError> {
        match transition(sandbox.status, Event::SnapshotRequested)? {
            same if same == sandbox.status => Ok(sandbox.clone()),
            transient => self.apply(sandbox, Change::to(transient)).await,
        }
    }

    /// Records that the sandbox goes on. Losing this means that somebody ended it meanwhile.
    async fn release(&self, held: &Sandbox, event: Event) -> Result<(), LifecycleError> {
        let next = transition(held.status, event)?;
        if next != held.status {
            self.store.update(held, Change::to(next)).await?;
        }
        Ok(())
    }

    /// Nobody knows what a failed capture left behind: it is removed like a snapshot.
    async fn undo_capture(&self, pending: Snapshot, why: String) -> Result<(), StoreError> {
        if pending.kind == SnapshotKind::Named {
            let action = Action::failed(EventKind::SnapshotCreate, why);
            self.store.record_snapshot_action(&pending, action).await?;
        }
        if let Some(condemned) = self.store.condemn_snapshot(&pending, Needed::DoesNotMatter).await? {
            self.discard_or_leave(condemned, None).await;
        }
        Ok(())
    }

    /// Removes a snapshot that is `deleting` from its host, and then its record.
    pub async fn discard(&self, condemned: &Snapshot, action: Option<Action>) -> Result<(), LifecycleError> {
        if let Err(error) = self.host.delete_snapshot(&condemned.id).await {
            self.nudge.notify_one();
            return Err(LifecycleError::Host(error));
        }
        // Losing this means that another delete has done the same.
        self.store.forget_snapshot(condemned, action).await?;
        Ok(())
    }

    /// The same where nobody waits for it: what fails stays `deleting` until the reconciler comes to it.
    pub(super) async fn discard_or_leave(&self, condemned: Snapshot, action: Option<Action>) {
        if let Err(error) = self.discard(&condemned, action).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(snapshot = %condemned.id, error, "a snapshot that nobody wants is still there");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_few_of_many_sandboxes() {
        let ids: Vec<SandboxId> = (0..12).map(|number| format!("sb{number}").parse().unwrap()).collect();
        assert_eq!(list(&ids[..2]), "sb0, sb1");
        assert!(list(&ids).ends_with("sb9 and 2 others"));
    }
}
