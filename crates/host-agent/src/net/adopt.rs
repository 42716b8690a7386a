//! Taking hold of a network that an earlier run of this program made, for a sandbox that still uses it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use model::SandboxId;

use super::connect::InNamespace;
use super::seam::GuestConnector;
use super::slot::ClaimError;
use super::{Network, SandboxNetwork, names, namespace};

/// Why a network was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The claims of this machine cannot be read.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// No slot is claimed for it.
    #[error("no network slot is claimed for sandbox {0}")]
    Unclaimed(SandboxId),
    /// Its namespace is gone.
    #[error("opening the network namespace {name}")]
    Namespace {
        /// As `ip netns` shows it.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl Network {
    /// The network of a sandbox as an earlier run of this installation made it. Its tap is the monitor's alone: none can
    /// be taken from what is returned.
    pub fn adopt(&self, sandbox: &SandboxId) -> Result<SandboxNetwork, AdoptError> {
        let installation = &self.installation;
        let is_its = |claim: &super::Claim| claim.instance == installation.instance && claim.sandbox == *sandbox;
        let mut claims = installation.claims.all()?.into_iter();
        let (slot, claim) =
            claims.find(|(_, claim)| is_its(claim)).ok_or_else(|| AdoptError::Unclaimed(sandbox.clone()))?;
        let name = names::namespace(&installation.instance, slot);
        let namespace = namespace::open(&name).map_err(|source| AdoptError::Namespace { name, source })?;
        let namespace: Arc<OwnedFd> = namespace.into();
        let way = InNamespace { namespace: namespace.clone(), sockets: self.sockets.clone() };
        let connector = GuestConnector::new(way);
        let addresses = installation.addresses.of(slot);
        Ok(SandboxNetwork {
            slot,
            addresses,
            tap: None,
            namespace,
            rest: None,
            connector,
            claim,
            installation: installation.clone(),
        })
    }
}
