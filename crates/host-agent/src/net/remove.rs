//! Removing networks: one of ours, or whatever was left behind on the machine.
//!
//! Names follow from instance and slot, so removal needs no memory of what was made. It goes on after a failure.

use std::collections::HashSet;
use std::fmt;
use std::io;

use model::{InstanceId, SandboxId};

use super::Installation;
use super::firewall::{self, Firewall, FirewallError};
use super::links::{LinkError, Links};
use super::names;
use super::namespace;
use super::slot::{Claim, ClaimError, Slot};

/// What could not be removed; the rest is gone.
#[derive(Debug)]
pub struct RemoveError {
    left: Vec<Leftover>,
}

/// One thing that could not be removed or looked up.
#[derive(Debug, thiserror::Error)]
enum Leftover {
    #[error("starting a thread for the removal")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("removing the namespace {name}")]
    Namespace { name: String, source: io::Error },
    #[error("listing the namespaces")]
    Namespaces(#[source] io::Error),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("removing the rules of {instance}")]
    Rules { instance: InstanceId, source: FirewallError },
}

impl fmt::Display for RemoveError {
    /// There is no single source to report, so each reason stands here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("parts of the network remain")?;
        for (index, leftover) in self.left.iter().enumerate() {
            write!(f, "{}{leftover}", if index == 0 { ": " } else { "; " })?;
            let mut source = std::error::Error::source(leftover);
            while let Some(error) = source {
                write!(f, ": {error}")?;
                source = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for RemoveError {}

impl RemoveError {
    /// Nothing was tried.
    pub fn not_started(error: io::Error) -> Result<(), Self> {
        Err(Self { left: vec![Leftover::Thread(error)] })
    }

    fn unless_empty(left: Vec<Leftover>) -> Result<(), Self> {
        if left.is_empty() { Ok(()) } else { Err(Self { left }) }
    }
}

impl Installation {
    /// Removes the network that `claim` holds in `slot`. If it does not hold it any more, the network is already gone.
    pub(super) async fn remove(&self, slot: Slot, claim: &Claim) -> Result<(), RemoveError> {
        RemoveError::unless_empty(self.try_remove(slot, claim).await)
    }

    async fn try_remove(&self, slot: Slot, claim: &Claim) -> Vec<Leftover> {
        match self.claims.holder(slot) {
            Ok(holder) if holder.as_ref() == Some(claim) => {}
            Ok(_) => return Vec::new(),
            Err(error) => return vec![error.into()],
        }
        let mut left = remove_parts(&claim.instance, slot).await;
        // Another sandbox in this slot would clash with what is left.
        if left.is_empty() {
            left.extend(self.claims.release(slot, claim).err().map(Leftover::from));
        }
        left
    }

    /// Removes what belongs to this installation and to none of `keep`, and all of installations that are gone
    /// where it can.
    pub(super) async fn sweep(&self, keep: &HashSet<SandboxId>) -> Result<(), RemoveError> {
        let stuck = |leftover| RemoveError { left: vec![leftover] };
        // In this order: what is made in between has a claim by then.
        let in_use = slots_in_use(&self.instance).await.map_err(stuck)?;
        let claims = self.claims.all().map_err(|error| stuck(error.into()))?;
        let mut left = self.sweep_unclaimed(in_use, &claims).await;
        for (slot, claim) in claims.iter().filter(|(_, claim)| self.is_stale(claim, keep)) {
            left.extend(self.sweep_claimed(*slot, claim).await);
        }
        self.sweep_gone(&claims).await;
        RemoveError::unless_empty(left)
    }

    /// A claim that this installation made before its directory was moved is still its own. One of another directory
    /// that carries the same id belongs to a copy, which looks after it itself.
    fn is_stale(&self, claim: &Claim, keep: &HashSet<SandboxId>) -> bool {
        let made_here = claim.data_dir == self.data_dir;
        claim.instance == self.instance && (made_here || claim.is_abandoned()) && !keep.contains(&claim.sandbox)
    }

    /// Removes all of installations that are gone. A slot of theirs that stays taken is no reason not to start.
    async fn sweep_gone(&self, claims: &[(Slot, Claim)]) {
        let (mut left, mut gone) = (Vec::new(), HashSet::new());
        let is_theirs = |claim: &Claim| claim.instance != self.instance && claim.is_abandoned();
        for (slot, claim) in claims.iter().filter(|(_, claim)| is_theirs(claim)) {
            left.extend(self.sweep_claimed(*slot, claim).await);
            gone.insert(&claim.instance);
        }
        for instance in gone {
            left.extend(remove_rules(instance).await.err());
        }
        if let Err(error) = RemoveError::unless_empty(left) {
            tracing::warn!(%error, "what installations that are gone have left cannot be removed");
        }
    }

    async fn sweep_claimed(&self, slot: Slot, claim: &Claim) -> Vec<Leftover> {
        tracing::info!(%slot, sandbox = %claim.sandbox, instance = %claim.instance, "sweeping a network");
        self.try_remove(slot, claim).await
    }

    /// Removes namespaces and veths that carry this instance's name while no claim of it stands for them.
    async fn sweep_unclaimed(&self, in_use: HashSet<Slot>, claims: &[(Slot, Claim)]) -> Vec<Leftover> {
        let ours = claims.iter().filter(|(_, claim)| claim.instance == self.instance);
        let claimed: HashSet<Slot> = ours.map(|(slot, _)| *slot).collect();
        let mut left = Vec::new();
        for slot in in_use.difference(&claimed).copied() {
            tracing::info!(%slot, instance = %self.instance, "sweeping an unclaimed network");
            left.extend(remove_parts(&self.instance, slot).await);
        }
        left
    }
}

/// Removes what stands in this slot for this instance, last made first. Routes and the peer go with the veth, all
/// else with the namespace.
async fn remove_parts(instance: &InstanceId, slot: Slot) -> Vec<Leftover> {
    let mut left = Vec::new();
    left.extend(delete_link(&names::veth(instance, slot)).await.err().map(Leftover::from));
    let name = names::namespace(instance, slot);
    if let Err(source) = namespace::remove(&name) {
        left.push(Leftover::Namespace { name, source });
    }
    left
}

async fn delete_link(name: &str) -> Result<(), LinkError> {
    Links::open()?.delete(name).await
}

/// The slots for which a namespace or a veth carries the instance's name.
async fn slots_in_use(instance: &InstanceId) -> Result<HashSet<Slot>, Leftover> {
    let (namespaces, links) = (namespace::names().map_err(Leftover::Namespaces)?, Links::open()?.names().await?);
    let (namespace_prefix, veth_prefix) = (names::namespace_prefix(instance), names::veth_prefix(instance));
    let from_namespaces = namespaces.iter().filter_map(|name| names::slot_in(name, &namespace_prefix));
    let from_links = links.iter().filter_map(|name| names::slot_in(name, &veth_prefix));
    Ok(from_namespaces.chain(from_links).collect())
}

async fn remove_rules(instance: &InstanceId) -> Result<(), Leftover> {
    let run = async { Firewall::start()?.load(&firewall::without_table(instance)).await };
    run.await.map_err(|source| Leftover::Rules { instance: instance.clone(), source })
}
