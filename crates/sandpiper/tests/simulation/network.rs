//! Networks of sandboxes that are only numbers, and the ways into their guests.

use std::collections::HashSet;
use std::fs::File;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use futures::future::BoxFuture;
use host_agent::net::{
    AdoptError, ClaimError, CreateError, Denials, Dial, EgressSocketError, EgressSockets, FirewallError,
    GuestConnector, GuestNetwork, GuestStream, Networks, RemoveError, Slot, TAP_IP,
};
use model::{NetworkPolicy, SandboxId};
use tokio_util::either::Either;

use crate::bugs::Bug;
use crate::guest;
use crate::monitor::Mode;
use crate::world::{Life, World};

/// What goes on on a wire at once.
const BUFFER: usize = 64 * 1024;

/// The networks of one host agent.
pub struct Wires {
    /// Where they are.
    pub world: World,
    /// Whose they are.
    pub life: Life,
}

struct Wire {
    world: World,
    life: Life,
    slot: u16,
    tap: Option<OwnedFd>,
    has_failed: bool,
}

struct Way {
    world: World,
    life: Life,
    slot: u16,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the way to {}", self.slot)
    }
}

impl Wires {
    fn busy(&self) -> u64 {
        self.world.state().weather.busy
    }

    fn wire(&self, slot: u16, tap: Option<OwnedFd>) -> Box<dyn GuestNetwork> {
        Box::new(Wire { world: self.world.clone(), life: self.life.clone(), slot, tap, has_failed: false })
    }
}

impl Networks for Wires {
    fn create<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        _policy: &'a NetworkPolicy,
    ) -> BoxFuture<'a, Result<Box<dyn GuestNetwork>, CreateError>> {
        Box::pin(async move {
            self.world.step(&self.life, "network.create").await;
            if self.world.happens(self.busy()) {
                return Err(ClaimError::AllTaken.into());
            }
            let slot = {
                let networks = &mut self.world.state().networks;
                let slot = (1..).find(|slot| !networks.contains_key(slot)).unwrap_or_default();
                networks.insert(slot, sandbox.clone());
                slot
            };
            let tap = tap(&self.world, slot).map_err(CreateError::Tap)?;
            self.world.step(&self.life, "network.created").await;
            Ok(self.wire(slot, Some(tap)))
        })
    }

    fn adopt(&self, sandbox: &SandboxId) -> Result<Box<dyn GuestNetwork>, AdoptError> {
        let slot = self.world.state().networks.iter().find(|(_, owner)| *owner == sandbox).map(|(slot, _)| *slot);
        slot.map(|slot| self.wire(slot, None)).ok_or_else(|| AdoptError::Unclaimed(sandbox.clone()))
    }

    fn sweep<'a>(&'a self, keep: &'a HashSet<SandboxId>) -> BoxFuture<'a, Result<(), RemoveError>> {
        Box::pin(async move {
            self.world.step(&self.life, "network.sweep").await;
            self.world.state().networks.retain(|_, sandbox| keep.contains(sandbox));
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<(), FirewallError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A file that says which network it is of: who has it is on that network.
fn tap(world: &World, slot: u16) -> io::Result<OwnedFd> {
    let path = world.state().root.join(format!("tap-{slot}"));
    std::fs::write(&path, slot.to_le_bytes())?;
    Ok(File::open(&path)?.into())
}

impl GuestNetwork for Wire {
    fn slot(&self) -> Slot {
        Slot::new(self.slot).expect("slots begin at 1")
    }

    fn host_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 11, 0, 0).to_bits() + u32::from(self.slot))
    }

    fn take_tap(&mut self) -> Option<OwnedFd> {
        self.tap.take()
    }

    fn ready(&mut self) -> BoxFuture<'_, Result<(), CreateError>> {
        Box::pin(async {
            self.world.step(&self.life, "network.ready").await;
            let busy = self.world.state().weather.busy;
            match self.world.happens(busy) {
                true => Err(CreateError::Thread(io::Error::other("the simulated kernel is busy"))),
                false => Ok(()),
            }
        })
    }

    fn connector(&self) -> GuestConnector {
        GuestConnector::new(Way { world: self.world.clone(), life: self.life.clone(), slot: self.slot })
    }

    fn give_to(&mut self, sandbox: &SandboxId) -> Result<(), ClaimError> {
        self.world.state().networks.insert(self.slot, sandbox.clone());
        Ok(())
    }

    fn apply<'a>(&'a self, _policy: &'a NetworkPolicy) -> BoxFuture<'a, Result<(), FirewallError>> {
        Box::pin(async { Ok(()) })
    }

    fn denials(&self) -> BoxFuture<'_, Result<Denials, FirewallError>> {
        Box::pin(async { Ok(Denials::default()) })
    }

    /// No history asks for names.
    fn egress_sockets(&self) -> BoxFuture<'_, Result<EgressSockets, EgressSocketError>> {
        let names = SocketAddrV4::new(TAP_IP, 53);
        Box::pin(async move { Err(EgressSocketError::Listen(names, io::ErrorKind::Unsupported.into())) })
    }

    fn resolvers(&self) -> Vec<Ipv4Addr> {
        Vec::new()
    }

    fn delete(&mut self) -> BoxFuture<'_, Result<(), RemoveError>> {
        Box::pin(async {
            self.world.step(&self.life, "network.delete").await;
            let is_stuck = self.has_failed && self.world.has(Bug::StuckNetworks);
            let busy = self.world.state().weather.busy;
            if is_stuck || self.world.happens(busy) {
                self.has_failed = true;
                return RemoveError::not_started(io::Error::other("the simulated kernel is busy"));
            }
            if !self.world.has(Bug::LeakedNetworks) {
                self.world.state().networks.remove(&self.slot);
            }
            self.world.step(&self.life, "network.deleted").await;
            Ok(())
        })
    }
}

impl Dial for Way {
    fn dial(&self, port: u16) -> BoxFuture<'_, io::Result<GuestStream>> {
        Box::pin(async move {
            self.world.step(&self.life, "guest.dial").await;
            let found = {
                let state = self.world.state();
                let found = state.guests.iter().find(|(_, guest)| guest.slot == self.slot);
                found.map(|(number, guest)| (*number, guest.mode.subscribe()))
            };
            // Where nobody is, nobody answers; what asks a stopped guest waits in the tap.
            let Some((number, mut mode)) = found else { return pending().await };
            if mode.wait_for(|mode| *mode != Mode::Stopped).await.is_ok_and(|mode| *mode == Mode::Gone) {
                return pending().await;
            }
            let (ours, theirs) = tokio::io::duplex(BUFFER);
            let (world, over) = (self.world.clone(), self.life.over.clone());
            tokio::spawn(async move {
                let gone = async move { drop(mode.wait_for(|mode| *mode == Mode::Gone).await) };
                tokio::select! {
                    () = guest::serve(world, number, port, theirs) => {}
                    () = gone => {}
                    () = over.cancelled() => {}
                }
            });
            Ok(Either::Right(ours))
        })
    }
}
