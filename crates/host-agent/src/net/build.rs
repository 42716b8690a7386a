//! The steps that make a sandbox's network, in two parts: what a monitor is started with, and what a guest needs before it
//! runs, which may take as long as the monitor does to start. The tap stays down until the rules are loaded, so that nothing
//! passes before, whoever forgets to wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use model::NetworkPolicy;
use tokio::sync::oneshot;

use super::Installation;
use super::address::{GUEST_IP, GUEST_MAC, SandboxAddresses, TAP_IP, TAP_MAC, TAP_PREFIX, VETH_PREFIX};
use super::firewall::{self, Firewall, FirewallError};
use super::links::{LinkError, Links};
use super::names::{self, PEER, TAP};
use super::namespace::{self, NamespaceError};
use super::slot::{Claim, ClaimError, Slot};
use super::tap;

/// Why a sandbox got no network.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There was no thread to work on.
    #[error("starting a thread for a network")]
    Thread(#[source] io::Error),
    /// It got no slot; [`ClaimError::AllTaken`] means that the host is full.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Its namespace could not be made.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// Its tap could not be made.
    #[error("making the tap {TAP}")]
    Tap(#[source] io::Error),
    /// An interface, address or route could not be made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Its rules could not be loaded.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
}

/// The part of a network that a monitor is started with.
pub(super) struct Begun {
    pub slot: Slot,
    pub addresses: SandboxAddresses,
    pub tap: OwnedFd,
    pub namespace: OwnedFd,
}

/// What has to be opened by a thread inside the namespace, and works from everywhere afterwards.
struct Inside {
    namespace: OwnedFd,
    tap: OwnedFd,
    way: Way,
}

/// What the second part is made by.
struct Way {
    links: Links,
    firewall: Firewall,
}

impl Installation {
    /// Makes the network that `claim` is for, and hands over what a monitor needs as soon as it is there. Blocks for
    /// milliseconds. What fails after that is left to whoever has taken it; what fails before, or is taken by nobody, is
    /// undone.
    pub(super) async fn build(
        &self,
        claim: Claim,
        policy: &NetworkPolicy,
        begun: oneshot::Sender<Begun>,
    ) -> Result<(), CreateError> {
        let slot = self.claims.claim(&claim)?;
        let addresses = self.addresses.of(slot);
        let name = names::namespace(&claim.instance, slot);
        let made = namespace::in_new(move || open_inside(&name)).await.and_then(|Inside { namespace, tap, way }| {
            let here = namespace.try_clone().map_err(NamespaceError::Open)?;
            Ok((Begun { slot, addresses, tap, namespace }, here, way))
        });
        let (network, namespace, way) = match made {
            Ok(made) => made,
            Err(error) => return Err(self.undo(slot, &claim, error).await),
        };
        let is_taken = begun.send(network).is_ok();
        let rules = firewall::sandbox_rules(&addresses, policy, &self.limits, &self.resolvers);
        let veth = names::veth(&claim.instance, slot);
        match way.open(&veth, &namespace, &addresses, &rules).await {
            Err(error) if !is_taken => Err(self.undo(slot, &claim, error).await),
            done => done,
        }
    }

    async fn undo(&self, slot: Slot, claim: &Claim, error: CreateError) -> CreateError {
        if let Err(left) = self.remove(slot, claim).await {
            tracing::warn!(sandbox = %claim.sandbox, error = %left, "a failed network was not undone");
        }
        error
    }
}

/// Runs on a thread inside the new namespace.
fn open_inside(name: &str) -> Result<Inside, CreateError> {
    namespace::name_current(name)?;
    let firewall = Firewall::start()?;
    namespace::disable_ipv6()?;
    namespace::set("net/ipv4/ip_forward", "1")?;
    let tap = tap::open(TAP).map_err(CreateError::Tap)?;
    let namespace = namespace::current().map_err(NamespaceError::Open)?;
    Ok(Inside { namespace, tap, way: Way { links: Links::open()?, firewall } })
}

impl Way {
    /// Loads the rules while the links are made, and lets the guest in when both are done.
    async fn open(
        self,
        veth: &str,
        namespace: &OwnedFd,
        addresses: &SandboxAddresses,
        rules: &str,
    ) -> Result<(), CreateError> {
        let load = async { Ok::<_, CreateError>(self.firewall.load(rules).await?) };
        tokio::try_join!(load, link(veth, namespace, &self.links, addresses))?;
        self.links.bring_up_as(TAP, TAP_MAC).await?;
        self.links.add_address(TAP, TAP_IP, TAP_PREFIX).await?;
        self.links.add_neighbour(TAP, GUEST_IP, GUEST_MAC).await?;
        Ok(())
    }
}

/// The way from the host into the namespace, and from there out.
async fn link(
    veth: &str,
    namespace: &OwnedFd,
    inside: &Links,
    addresses: &SandboxAddresses,
) -> Result<(), CreateError> {
    let host = Links::open()?;
    host.add_veth(veth, PEER, namespace.as_fd()).await?;
    inside.bring_up("lo").await?;
    inside.bring_up(PEER).await?;
    inside.add_address(PEER, addresses.peer, VETH_PREFIX).await?;
    inside.add_default_route(addresses.veth).await?;
    host.add_address(veth, addresses.veth, VETH_PREFIX).await?;
    host.add_route_to(addresses.host_ip, addresses.peer).await?;
    Ok(())
}
