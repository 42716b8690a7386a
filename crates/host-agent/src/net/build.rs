//! The steps that make a sandbox's network. What a failing step leaves is removed in reverse order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use model::{InstanceId, NetworkPolicy};

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

/// A finished network.
pub(super) struct Built {
    pub slot: Slot,
    pub addresses: SandboxAddresses,
    pub claim: Claim,
    pub tap: OwnedFd,
    pub namespace: OwnedFd,
}

/// What has to be opened by a thread inside the namespace, and works from everywhere afterwards.
struct Inside {
    namespace: OwnedFd,
    tap: OwnedFd,
    links: Links,
    firewall: Firewall,
}

impl Installation {
    /// Makes the network that `claim` is for. Blocks for milliseconds.
    pub(super) async fn build(&self, claim: Claim, policy: &NetworkPolicy) -> Result<Built, CreateError> {
        let slot = self.claims.claim(&claim)?;
        let addresses = self.addresses.of(slot);
        let rules = firewall::sandbox_rules(&addresses, policy, &self.limits, &self.resolvers);
        match build_in(slot, &claim.instance, &addresses, &rules).await {
            Ok((tap, namespace)) => Ok(Built { slot, addresses, claim, tap, namespace }),
            Err(error) => {
                if let Err(left) = self.remove(slot, &claim).await {
                    tracing::warn!(sandbox = %claim.sandbox, error = %left, "a failed network was not undone");
                }
                Err(error)
            }
        }
    }
}

/// Makes the namespace and all that belongs to it, on both sides. The rules are loaded while the links are made.
async fn build_in(
    slot: Slot,
    instance: &InstanceId,
    addresses: &SandboxAddresses,
    rules: &str,
) -> Result<(OwnedFd, OwnedFd), CreateError> {
    let name = names::namespace(instance, slot);
    let Inside { namespace, tap, links, firewall } = namespace::in_new(move || open_inside(&name)).await?;
    let veth = names::veth(instance, slot);
    let load = async { Ok::<_, CreateError>(firewall.load(rules).await?) };
    tokio::try_join!(load, link(&veth, &namespace, &links, addresses))?;
    Ok((tap, namespace))
}

/// Runs on a thread inside the new namespace.
fn open_inside(name: &str) -> Result<Inside, CreateError> {
    namespace::name_current(name)?;
    let firewall = Firewall::start()?;
    namespace::disable_ipv6()?;
    namespace::set("net/ipv4/ip_forward", "1")?;
    let tap = tap::open(TAP).map_err(CreateError::Tap)?;
    let namespace = namespace::current().map_err(NamespaceError::Open)?;
    Ok(Inside { namespace, tap, links: Links::open()?, firewall })
}

async fn link(
    veth: &str,
    namespace: &OwnedFd,
    inside: &Links,
    addresses: &SandboxAddresses,
) -> Result<(), CreateError> {
    let host = Links::open()?;
    host.add_veth(veth, PEER, namespace.as_fd()).await?;
    inside.bring_up("lo").await?;
    inside.bring_up_as(TAP, TAP_MAC).await?;
    inside.add_address(TAP, TAP_IP, TAP_PREFIX).await?;
    inside.add_neighbour(TAP, GUEST_IP, GUEST_MAC).await?;
    inside.bring_up(PEER).await?;
    inside.add_address(PEER, addresses.peer, VETH_PREFIX).await?;
    inside.add_default_route(addresses.veth).await?;
    host.add_address(veth, addresses.veth, VETH_PREFIX).await?;
    host.add_route_to(addresses.host_ip, addresses.peer).await?;
    Ok(())
}
