//! What the rest of the host agent needs of networks, so that a simulation can put something else in their place.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use model::{NetworkPolicy, SandboxId};
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::{
    AdoptError, ClaimError, CreateError, Denials, EgressSocketError, EgressSockets, FirewallError, Network,
    RemoveError, SandboxNetwork, Slot,
};

/// The networks of a host's sandboxes.
pub trait Networks: Send + Sync {
    /// Begins the network of a sandbox, from which its guest reaches what `policy` lets it, or makes nothing.
    fn create<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        policy: &'a NetworkPolicy,
    ) -> BoxFuture<'a, Result<Box<dyn GuestNetwork>, CreateError>>;

    /// The network of a sandbox as an earlier run made it. Its tap is the monitor's alone.
    fn adopt(&self, sandbox: &SandboxId) -> Result<Box<dyn GuestNetwork>, AdoptError>;

    /// Removes every network of this installation whose sandbox is not in `keep`.
    fn sweep<'a>(&'a self, keep: &'a HashSet<SandboxId>) -> BoxFuture<'a, Result<(), RemoveError>>;

    /// Removes what was made for all sandboxes together.
    fn close(&self) -> BoxFuture<'_, Result<(), FirewallError>>;
}

/// The network of one sandbox. Dropping it leaves it where it is.
pub trait GuestNetwork: Send + Sync {
    /// The number that names and addresses follow from.
    fn slot(&self) -> Slot;

    /// The address by which this host reaches the guest.
    fn host_ip(&self) -> Ipv4Addr;

    /// The tap for the VMM, once.
    fn take_tap(&mut self) -> Option<OwnedFd>;

    /// Waits until its rules are in force and its guest can be reached: before a guest runs. Until then nothing passes.
    /// After an error it is to be deleted.
    fn ready(&mut self) -> BoxFuture<'_, Result<(), CreateError>>;

    /// What connects to the guest, for those who outlive a borrow of this.
    fn connector(&self) -> GuestConnector;

    /// Makes it another sandbox's.
    fn give_to(&mut self, sandbox: &SandboxId) -> Result<(), ClaimError>;

    /// Makes another policy the one that holds, also for connections that are open.
    fn apply<'a>(&'a self, policy: &'a NetworkPolicy) -> BoxFuture<'a, Result<(), FirewallError>>;

    /// What of the guest's packets went nowhere.
    fn denials(&self) -> BoxFuture<'_, Result<Denials, FirewallError>>;

    /// Opens the sockets of its resolver and proxy.
    fn egress_sockets(&self) -> BoxFuture<'_, Result<EgressSockets, EgressSocketError>>;

    /// The name servers that may be asked.
    fn resolvers(&self) -> Vec<Ipv4Addr>;

    /// Removes everything, as far as possible. May be repeated.
    fn delete(&mut self) -> BoxFuture<'_, Result<(), RemoveError>>;
}

/// A way into one guest.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects to a port of the guest.
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<GuestStream>>;
}

/// A connection to a guest: TCP, or the memory of a simulation.
pub type GuestStream = Either<TcpStream, DuplexStream>;

/// Connects to one guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuestConnector(Arc<dyn Dial>);

impl GuestConnector {
    /// One that goes this way.
    pub fn new(way: impl Dial + 'static) -> Self {
        Self(Arc::new(way))
    }

    /// A connection to a port of the guest, which sees it come from the host's side of the tap.
    pub async fn connect(&self, port: u16, timeout: Duration) -> io::Result<GuestStream> {
        let dialled = tokio::time::timeout(timeout, self.0.dial(port)).await;
        dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl Networks for Network {
    fn create<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        policy: &'a NetworkPolicy,
    ) -> BoxFuture<'a, Result<Box<dyn GuestNetwork>, CreateError>> {
        Box::pin(async {
            let network = Network::create(self, sandbox, policy).await?;
            Ok(Box::new(network) as Box<dyn GuestNetwork>)
        })
    }

    fn adopt(&self, sandbox: &SandboxId) -> Result<Box<dyn GuestNetwork>, AdoptError> {
        Ok(Box::new(Network::adopt(self, sandbox)?))
    }

    fn sweep<'a>(&'a self, keep: &'a HashSet<SandboxId>) -> BoxFuture<'a, Result<(), RemoveError>> {
        Box::pin(Network::sweep(self, keep))
    }

    fn close(&self) -> BoxFuture<'_, Result<(), FirewallError>> {
        Box::pin(Network::close(self))
    }
}

impl GuestNetwork for SandboxNetwork {
    fn slot(&self) -> Slot {
        SandboxNetwork::slot(self)
    }

    fn host_ip(&self) -> Ipv4Addr {
        SandboxNetwork::host_ip(self)
    }

    fn take_tap(&mut self) -> Option<OwnedFd> {
        SandboxNetwork::take_tap(self)
    }

    fn ready(&mut self) -> BoxFuture<'_, Result<(), CreateError>> {
        Box::pin(SandboxNetwork::ready(self))
    }

    fn connector(&self) -> GuestConnector {
        SandboxNetwork::connector(self)
    }

    fn give_to(&mut self, sandbox: &SandboxId) -> Result<(), ClaimError> {
        SandboxNetwork::give_to(self, sandbox)
    }

    fn apply<'a>(&'a self, policy: &'a NetworkPolicy) -> BoxFuture<'a, Result<(), FirewallError>> {
        Box::pin(SandboxNetwork::apply(self, policy))
    }

    fn denials(&self) -> BoxFuture<'_, Result<Denials, FirewallError>> {
        Box::pin(SandboxNetwork::denials(self))
    }

    fn egress_sockets(&self) -> BoxFuture<'_, Result<EgressSockets, EgressSocketError>> {
        Box::pin(SandboxNetwork::egress_sockets(self))
    }

    fn resolvers(&self) -> Vec<Ipv4Addr> {
        SandboxNetwork::resolvers(self)
    }

    fn delete(&mut self) -> BoxFuture<'_, Result<(), RemoveError>> {
        Box::pin(SandboxNetwork::delete(self))
    }
}
