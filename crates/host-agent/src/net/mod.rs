//! The networks of sandboxes on this host.
//!
//! Each sandbox has a network namespace with a tap for its VMM and a veth to the host:
//!
//! ```text
//!            host              |     namespace sp-INSTANCE-SLOT
//!  host_ip/32 via peer         |  host_ip → guest, guest → peer (nft)
//!  spINSTANCEhSLOT ────────────┼─ eth0 (peer)        tap0 169.254.0.22/30 ── guest 169.254.0.21
//! ```
//!
//! Everything made here carries the instance id and the slot, and the slot is claimed for the whole machine before
//! anything else and given back after everything else: what a crash leaves behind can be found and swept, and several
//! installations on one machine do not disturb each other. Knows nothing of VMMs, of the guest agent or of what a
//! sandbox is in; who may reach what beyond the rules in `firewall` is a policy that it is given.

mod address;
mod adopt;
mod blocking;
mod build;
mod connect;
mod egress_sockets;
mod firewall;
mod links;
mod names;
mod namespace;
mod remove;
mod seam;
mod slot;
mod tap;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{InstanceId, NetworkPolicy, SandboxId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use address::{AddressPlan, GUEST_IP, GUEST_MAC, InvalidPlan, SandboxAddresses, TAP_IP, TAP_PREFIX};
pub use adopt::AdoptError;
pub use build::CreateError;
pub use egress_sockets::{EgressSocketError, EgressSockets};
pub use firewall::{Denials, FirewallError, TrafficLimits};
pub(crate) use firewall::{is_fenced, name_servers};
pub use links::LinkError;
pub use namespace::NamespaceError;
pub use remove::RemoveError;
pub use seam::{Dial, GuestConnector, GuestNetwork, GuestStream, Networks};
pub use slot::{ClaimError, Slot};

use build::Begun;
use connect::{InNamespace, SocketThread};
use firewall::Firewall;
use slot::{Claim, Claims};

/// Where the installations of a machine claim their slots.
pub const CLAIM_DIRECTORY: &str = "/run/sandpiper/slots";

/// What the networks of an installation are made from.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The installation, part of every name.
    pub instance: InstanceId,
    /// Where it lives. The file `instance-id` in it shows other installations that this one's claims are valid.
    pub data_dir: PathBuf,
    /// Where slots are claimed: the same for all installations that share a machine and an address plan.
    pub claim_dir: PathBuf,
    /// The ranges that addresses come from.
    pub addresses: AddressPlan,
    /// What each guest may send and receive.
    pub limits: TrafficLimits,
    /// Name servers that answer guests' questions where a policy has no others; the only machines in private ranges that guests ever reach.
    pub resolvers: Vec<Ipv4Addr>,
}

impl NetworkConfig {
    /// The usual claim directory, ranges and limits, and no name servers.
    pub fn new(instance: InstanceId, data_dir: impl Into<PathBuf>) -> Self {
        let (claim_dir, addresses) = (CLAIM_DIRECTORY.into(), AddressPlan::default());
        let (limits, resolvers) = (TrafficLimits::default(), Vec::new());
        Self { instance, data_dir: data_dir.into(), claim_dir, addresses, limits, resolvers }
    }
}

/// Why networking could not be set up on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory does not say which installation it is.
    #[error("reading the instance id in {}", data_dir.display())]
    InstanceId {
        /// The data directory.
        data_dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is another installation's.
    #[error("{} belongs to the instance {found:?}, not to {instance}", data_dir.display())]
    OtherInstance {
        /// The data directory.
        data_dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        instance: InstanceId,
    },
    /// The claims cannot be used.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// The host does not forward packets.
    #[error(transparent)]
    Forwarding(#[from] NamespaceError),
    /// The host's rules could not be loaded.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The thread that opens sockets did not start.
    #[error("starting the thread that opens sockets in namespaces")]
    Sockets(#[source] io::Error),
}

/// The networks of one installation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Network {
    installation: Arc<Installation>,
    sockets: Arc<SocketThread>,
}

/// Whose networks these are and where their slots are claimed.
#[derive(Debug)]
struct Installation {
    instance: InstanceId,
    data_dir: PathBuf,
    addresses: AddressPlan,
    limits: TrafficLimits,
    resolvers: Vec<Ipv4Addr>,
    claims: Claims,
}

impl Network {
    /// Prepares the host: claims, forwarding, and the installation's rules, which replace those of an earlier run.
    pub async fn open(config: NetworkConfig) -> Result<Self, OpenError> {
        let NetworkConfig { instance, data_dir, claim_dir, addresses, limits, resolvers } = config;
        let data_dir = check_instance(&instance, &data_dir)?;
        let claims = Claims::open(&claim_dir)?;
        namespace::set("net/ipv4/ip_forward", "1")?;
        Firewall::start()?.load(&firewall::host_rules(&instance, &addresses, &resolvers)).await?;
        let sockets = SocketThread::start().map_err(OpenError::Sockets)?.into();
        let installation = Installation { instance, data_dir, addresses, limits, resolvers, claims };
        Ok(Self { installation: installation.into(), sockets })
    }

    /// Begins the network of a sandbox, from which its guest reaches what `policy` lets it: its tap is there, and the rest
    /// comes while a monitor is started. What a failure leaves half made is undone; what a cancelled call has made is
    /// claimed for `sandbox` and goes with the next sweep.
    pub async fn create(&self, sandbox: &SandboxId, policy: &NetworkPolicy) -> Result<SandboxNetwork, CreateError> {
        let (installation, claim) = (self.installation.clone(), self.installation.claim_for(sandbox));
        let (policy, (tell, begun)) = (policy.clone(), oneshot::channel());
        let build = {
            let (installation, claim) = (installation.clone(), claim.clone());
            move || async move { installation.build(claim, &policy, tell).await }
        };
        let mut rest = blocking::begin(build);
        let Ok(Begun { slot, addresses, tap, namespace }) = begun.await else {
            let failed = blocking::ended(&mut rest).await.map_err(CreateError::Thread)?;
            return Err(failed.expect_err("a network that was made was handed over"));
        };
        let namespace: Arc<OwnedFd> = namespace.into();
        let way = InNamespace { namespace: namespace.clone(), sockets: self.sockets.clone() };
        Ok(SandboxNetwork {
            slot,
            addresses,
            tap: Some(tap),
            namespace,
            rest: Some(rest),
            connector: GuestConnector::new(way),
            claim,
            installation,
        })
    }

    /// Removes every network of this installation whose sandbox is not in `keep`, and those of installations that are
    /// gone from this machine. A sandbox whose network is being created counts as one to keep.
    pub async fn sweep(&self, keep: &HashSet<SandboxId>) -> Result<(), RemoveError> {
        let (installation, keep) = (self.installation.clone(), keep.clone());
        let sweep = move || async move { installation.sweep(&keep).await };
        blocking::to_the_end(sweep).await.unwrap_or_else(RemoveError::not_started)
    }

    /// Removes the installation's rules from the host. Sandboxes that run on would lose their way out.
    pub async fn close(&self) -> Result<(), FirewallError> {
        Firewall::start()?.load(&firewall::without_table(&self.installation.instance)).await
    }
}

impl Installation {
    fn claim_for(&self, sandbox: &SandboxId) -> Claim {
        Claim { instance: self.instance.clone(), sandbox: sandbox.clone(), data_dir: self.data_dir.clone() }
    }
}

/// The network of one sandbox. Dropping it closes the tap if nobody took it and leaves the rest.
#[derive(Debug)]
pub struct SandboxNetwork {
    slot: Slot,
    addresses: SandboxAddresses,
    /// Until the VMM gets it.
    tap: Option<OwnedFd>,
    namespace: Arc<OwnedFd>,
    /// What is still made of it.
    rest: Option<JoinHandle<io::Result<Result<(), CreateError>>>>,
    connector: GuestConnector,
    /// What gives the right to remove it.
    claim: Claim,
    installation: Arc<Installation>,
}

impl SandboxNetwork {
    /// The number that names and addresses follow from.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The name of the namespace.
    pub fn namespace(&self) -> String {
        names::namespace(&self.claim.instance, self.slot)
    }

    /// The address by which this host reaches the guest.
    pub fn host_ip(&self) -> Ipv4Addr {
        self.addresses.host_ip
    }

    /// The tap for the VMM, once. The device lives as long as its descriptor.
    pub fn take_tap(&mut self) -> Option<OwnedFd> {
        self.tap.take()
    }

    /// Waits until all of it is there: the rules are in force, and the guest is reached and reaches what it may. Until then
    /// nothing passes. After an error it is to be deleted.
    pub async fn ready(&mut self) -> Result<(), CreateError> {
        let Some(rest) = &mut self.rest else { return Ok(()) };
        let done = blocking::ended(rest).await;
        self.rest = None;
        done.unwrap_or_else(|error| Err(CreateError::Thread(error)))
    }

    /// What connects to the guest, for those who outlive a borrow of this.
    pub fn connector(&self) -> GuestConnector {
        self.connector.clone()
    }

    /// Makes it another sandbox's.
    pub fn give_to(&mut self, sandbox: &SandboxId) -> Result<(), ClaimError> {
        let claim = self.installation.claim_for(sandbox);
        self.installation.claims.replace(self.slot, &claim)?;
        self.claim = claim;
        Ok(())
    }

    /// Makes another policy the one that holds, also for connections that are open.
    pub async fn apply(&self, policy: &NetworkPolicy) -> Result<(), FirewallError> {
        let start = || Firewall::start();
        let firewall = namespace::inside(self.namespace.clone(), start).await?;
        firewall.load(&firewall::policy_rules(policy, &self.installation.resolvers)).await
    }

    /// What of the guest's packets went nowhere.
    pub async fn denials(&self) -> Result<Denials, FirewallError> {
        let start = || Firewall::start_counting();
        namespace::inside(self.namespace.clone(), start).await?.counted().await
    }

    /// A connection to a port of the guest, which sees it come from [`TAP_IP`].
    pub async fn connect(&self, port: u16, timeout: Duration) -> io::Result<GuestStream> {
        self.connector.connect(port, timeout).await
    }

    /// Removes everything, as far as possible; the slot is given back only when all else is gone. May be repeated.
    pub async fn delete(&mut self) -> Result<(), RemoveError> {
        // Whatever became of it: it must not go on while it is removed.
        let _ = self.ready().await;
        let (installation, tap) = (self.installation.clone(), self.tap.take());
        let (slot, claim) = (self.slot, self.claim.clone());
        let remove = move || async move {
            // The tap goes with its descriptor, if the VMM has none.
            drop(tap);
            installation.remove(slot, &claim).await
        };
        blocking::to_the_end(remove).await.unwrap_or_else(RemoveError::not_started)
    }
}

/// The data directory as other processes see it, once it is sure that it carries the instance's id: without that its
/// claims would look abandoned to them.
fn check_instance(instance: &InstanceId, data_dir: &Path) -> Result<PathBuf, OpenError> {
    let carried = slot::instance_in(data_dir).and_then(|found| Ok((found, data_dir.canonicalize()?)));
    match carried {
        Ok((found, absolute)) if found == instance.as_str() => Ok(absolute),
        Ok((found, data_dir)) => Err(OpenError::OtherInstance { data_dir, found, instance: instance.clone() }),
        Err(source) => Err(OpenError::InstanceId { data_dir: data_dir.to_owned(), source }),
    }
}
