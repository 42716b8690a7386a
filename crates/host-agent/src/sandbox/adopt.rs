//! Taking over sandboxes that an earlier host agent left running: their monitors go on meanwhile and notice nothing.
//!
//! Each part is taken hold of as it is: the network by its claim, the monitor by its process and its control socket, the
//! guest by the access token that it knows. A guest is not asked anything, so that one that is busy, or hostile, is adopted
//! like any other.

use std::path::Path;

use model::{SandboxId, Status};
use vmm::{AdoptSpec, ProcessIdentity};

use super::CreateError;
use super::parts::Parts;
use super::record::{Record, is_settled};
use super::sweep::{Found, Left};
use crate::egress;
use crate::guest::Guest;
use crate::host::Host;
use crate::net;

/// Why a sandbox that seems to run was not taken over. It is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// Nothing is known of its virtual machine.
    #[error("its record does not say as what it runs")]
    Unknown,
    /// Its template.
    #[error("find its template")]
    Template(#[source] CreateError),
    /// Its network.
    #[error("take over its network")]
    Network(#[from] net::AdoptError),
    /// What it may reach.
    #[error("put the rules of its network in force")]
    Rules(#[from] net::FirewallError),
    /// Its monitor.
    #[error("take over its virtual machine")]
    Vm(#[from] vmm::AdoptError),
}

/// A sandbox that was found, as its owner is to have it.
pub(super) async fn adopt(host: &Host, found: Found) -> (Record, Parts, Status) {
    let Found { directory, record, state } = found;
    let id = record.spec.id.clone();
    match state {
        Left::Paused => {
            tracing::info!(sandbox = %id, "a paused sandbox is kept");
            let place = host.ledger.keep(&record.spec.owner);
            (record.clone(), Parts::on_disk(directory, record, place), Status::Paused)
        }
        Left::Stopped => {
            match record.is_stopped {
                true => tracing::info!(sandbox = %id, "a stopped sandbox is kept"),
                false => tracing::warn!(sandbox = %id, "the machine was restarted while it ran: its disk is kept"),
            }
            let place = host.ledger.keep(&record.spec.owner);
            (record.clone(), Parts::on_disk(directory, record, place), Status::Stopped)
        }
        Left::Lost => {
            tracing::warn!(sandbox = %id, "its virtual machine ended while no host agent ran");
            (record, Parts::default(), Status::Error)
        }
        Left::Running(process) => {
            let status = if is_settled(&directory) { Status::Running } else { Status::Snapshotting };
            let mut parts = Parts { directory: Some(directory), record: Some(record.clone()), ..Parts::default() };
            match parts.take_over(host, process).await {
                Ok(()) => {
                    tracing::info!(sandbox = %id, %status, "taken over as it runs");
                    (record, parts, status)
                }
                Err(error) => {
                    give_up(host, &id, parts.directory(), process, &error).await;
                    (record, parts, Status::Error)
                }
            }
        }
    }
}

/// Ends what runs of it. Whatever is not our monitor is left alone.
async fn give_up(host: &Host, id: &SandboxId, directory: &Path, process: ProcessIdentity, error: &AdoptError) {
    tracing::error!(sandbox = %id, error = error as &dyn std::error::Error, "what runs cannot be taken over and ends");
    if let Some(egress) = egress::recorded(directory) {
        egress.kill().await;
    }
    let is_other = matches!(error, AdoptError::Vm(vmm::AdoptError::Other { .. }));
    if let (false, Ok(process)) = (is_other, host.vmm.find(process)) {
        process.kill().await;
    }
}

impl Parts {
    /// Takes hold of all that the directory's record tells of.
    async fn take_over(&mut self, host: &Host, process: ProcessIdentity) -> Result<(), AdoptError> {
        let Record { spec, layers, run, .. } = self.record().clone();
        let run = run.ok_or(AdoptError::Unknown)?;
        let (place, share) = host.ledger.keep_running(&spec.owner, &spec.shape);
        (self.place, self.share) = (Some(place), Some(share));
        self.find_template(host).map_err(AdoptError::Template)?;
        let network = host.network.adopt(&spec.id)?;
        // A change that was cut may be in force without being recorded.
        network.apply(&spec.network).await?;
        let guest = Guest::known(network.connector(), run.access_token);
        self.network = Some(network);
        self.find_cgroup(host);
        // It runs on without names: nothing is reached by them that should not be.
        if let Err(error) = self.keep_egress(host, &spec.network).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(sandbox = %spec.id, error, "it finds no names until its policy is set again");
        }
        let adopted = host.vmm.adopt(AdoptSpec {
            process,
            platform: run.platform.clone(),
            directory: self.directory().to_owned(),
            layer_count: layers.len(),
            first_answer: run.first_answer,
        });
        self.vm = Some(adopted.await?);
        (self.memory, self.start, self.platform) = (run.memory, run.start, Some(run.platform));
        self.guest = Some(guest);
        Ok(())
    }

    /// Lets an adopted guest go on that may stand still, and tells it who it is.
    pub(super) async fn make_right(&self, host: &Host) -> Result<(), CreateError> {
        let vm = self.vm.clone().expect("an adopted sandbox that runs has a virtual machine");
        let guest = self.guest.clone().expect("an adopted sandbox that runs has a guest");
        self.go_on(host, &self.record().spec, &*vm, &guest).await
    }
}
