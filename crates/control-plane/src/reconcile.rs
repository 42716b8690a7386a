//! Compares records with what the host has, and puts the records right.
//!
//! One pass is idempotent and has no memory: records are read first, then the host, so that a sandbox that appears in
//! between is never taken for lost; what to do is decided by the pure [`plan`]; every update is conditional. A host
//! that does not answer changes nothing. Knows nothing of requests.

use std::collections::HashMap;

use jiff::Timestamp;
use model::{HostId, SandboxId, Status};

use crate::host::{HostAgent, HostError, HostSandbox};
use crate::lifecycle::{DeleteError, Lifecycle};
use crate::store::{Change, Sandbox, Store, StoreError};

/// Compares the records of one host with it.
#[derive(Clone)]
pub struct Reconciler {
    /// Whose records.
    pub host_id: HostId,
    /// The host itself.
    pub host: HostAgent,
    /// The records.
    pub store: Store,
    /// Completes deletes that were cut short.
    pub lifecycle: Lifecycle,
    /// Transient records older than this process have nobody who works on them any more.
    pub since: Timestamp,
}

/// A pass that could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The host's sandboxes are unknown.
    #[error("cannot ask the host for its sandboxes")]
    Host(#[source] HostError),
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A delete that was cut short could not be completed.
    #[error("cannot complete the deletion of sandbox {id}")]
    Delete {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        source: DeleteError,
    },
}

/// What to do about one record.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Record(Change),
    Delete,
}

impl Reconciler {
    /// One pass.
    pub async fn pass(&self) -> Result<(), PassError> {
        let records = self.store.list_unfinished(&self.host_id).await?;
        let facts = self.host.describe().await.map_err(PassError::Host)?;
        self.store.host_seen(&self.host_id, &facts).await?;
        let observed = self.host.list().await.map_err(PassError::Host)?;
        let observed: HashMap<_, _> = observed.into_iter().map(|sandbox| (sandbox.id.clone(), sandbox)).collect();
        let mut result = Ok(());
        for record in records {
            if let Some(action) = plan(&record, observed.get(&record.id), self.since) {
                tracing::info!(sandbox = %record.id, status = %record.status, ?action, "record and host differ");
                // One sandbox that cannot be put right holds up no other.
                result = result.and(self.execute(&record, action).await);
            }
        }
        result
    }

    async fn execute(&self, record: &Sandbox, action: Action) -> Result<(), PassError> {
        match action {
            Action::Record(change) => {
                // Losing this means that somebody knows better by now.
                self.store.update(record, change).await?;
            }
            Action::Delete => {
                let delete = self.lifecycle.delete(record.owner.clone(), record.id.clone()).await;
                delete.map_err(|source| PassError::Delete { id: record.id.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// What to do about `record` when its host has `observed`.
fn plan(record: &Sandbox, observed: Option<&HostSandbox>, since: Timestamp) -> Option<Action> {
    let is_settled = matches!(record.status, Status::Running | Status::Paused | Status::Missing);
    if !is_settled && record.last_updated >= since {
        return None;
    }
    match (record.status, observed.map(|sandbox| sandbox.status)) {
        (Status::Stopping, _) => Some(Action::Delete),
        (Status::Pending, None) => Some(Action::Record(Change::because(
            Status::Error,
            "the control plane was restarted while the sandbox was being created",
        ))),
        (_, None | Some(Status::Stopped)) => {
            Some(Action::Record(Change::because(Status::Stopped, "it is no longer on its host")))
        }
        (_, Some(Status::Error)) => Some(Action::Record(Change::because(Status::Error, "its virtual machine failed"))),
        (was, Some(is @ (Status::Running | Status::Paused))) if was != is => {
            let change = if is == Status::Running { Change::running() } else { Change::to(is) };
            let host_ip = observed.map(|sandbox| sandbox.host_ip.clone()).unwrap_or_default();
            Some(Action::Record(change.with_host_ip(host_ip)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(milliseconds).unwrap()
    }

    fn record(status: Status, last_updated: i64) -> Sandbox {
        Sandbox {
            id: SandboxId::random(),
            owner: model::OwnerId::nobody(),
            host: "default".parse().unwrap(),
            template: "minimal".parse().unwrap(),
            status,
            status_reason: String::new(),
            generation: 1,
            shape: Default::default(),
            lifetime: model::Lifetime::Never,
            guest_ip: String::new(),
            host_ip: String::new(),
            created_at: at(0),
            started_at: None,
            last_active_at: None,
            last_updated: at(last_updated),
        }
    }

    /// What a pass that began at 100 does about a record; the host's state as text, empty for none.
    fn planned(status: Status, last_updated: i64, host: &str) -> String {
        let record = record(status, last_updated);
        let observed = (!host.is_empty()).then(|| HostSandbox {
            id: record.id.clone(),
            status: host.parse().unwrap(),
            host_ip: "10.11.0.1".to_owned(),
        });
        match plan(&record, observed.as_ref(), at(100)) {
            None => "nothing".to_owned(),
            Some(Action::Delete) => "delete".to_owned(),
            Some(Action::Record(change)) if change == Change::running().with_host_ip("10.11.0.1".into()) => {
                "running".to_owned()
            }
            Some(Action::Record(change)) => {
                let statuses = Status::ALL.into_iter();
                let of = |status: Status| format!("{change:?}").contains(&format!("status: {status:?}"));
                statuses.filter(|status| of(*status)).map(Status::as_str).collect()
            }
        }
    }

    #[test]
    fn leftovers_of_an_earlier_process_become_what_the_host_says() {
        for (status, host, expected) in [
            (Status::Pending, "", "error"),
            (Status::Pending, "running", "running"),
            (Status::Pending, "pending", "nothing"),
            (Status::Pausing, "", "stopped"),
            (Status::Pausing, "paused", "paused"),
            (Status::Pausing, "running", "running"),
            (Status::Pausing, "pausing", "nothing"),
            (Status::Resuming, "paused", "paused"),
            (Status::Resuming, "running", "running"),
            (Status::Resuming, "error", "error"),
            (Status::Stopping, "", "delete"),
            (Status::Stopping, "running", "delete"),
        ] {
            assert_eq!(planned(status, 50, host), expected, "{status}, host {host:?}");
        }
    }

    #[test]
    fn work_under_way_in_this_process_is_left_alone() {
        for status in [Status::Pending, Status::Pausing, Status::Resuming, Status::Stopping, Status::Snapshotting] {
            for host in ["", "running", "paused", "error"] {
                assert_eq!(planned(status, 100, host), "nothing", "{status}, host {host:?}");
            }
        }
    }

    #[test]
    fn settled_records_follow_the_host_at_any_age() {
        for last_updated in [50, 150] {
            assert_eq!(planned(Status::Running, last_updated, "running"), "nothing");
            assert_eq!(planned(Status::Running, last_updated, "pausing"), "nothing");
            assert_eq!(planned(Status::Running, last_updated, "paused"), "paused");
            assert_eq!(planned(Status::Running, last_updated, ""), "stopped");
            assert_eq!(planned(Status::Paused, last_updated, "running"), "running");
            assert_eq!(planned(Status::Missing, last_updated, "running"), "running");
        }
    }
}
