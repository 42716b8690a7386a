//! Which addresses belong to a slot. Pure arithmetic; knows nothing of interfaces or of who holds a slot.

use std::net::Ipv4Addr;

use super::slot::Slot;

/// The guest's address, the same in every sandbox: sandboxes are told apart by their namespaces.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);
/// The host's side of the tap, from which all connections of the host agent come.
pub const TAP_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);
/// The prefix length that the guest and the tap share.
pub const TAP_PREFIX: u8 = 30;
/// The guest's MAC address, the same in every sandbox.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xFC, 0x00, 0x00, 0x00, 0x05];
/// The tap's MAC address, the same in every sandbox: a guest that goes on elsewhere still knows its host by it.
pub(super) const TAP_MAC: [u8; 6] = [0x02, 0xFC, 0x00, 0x00, 0x00, 0x06];
/// The prefix length of a veth pair: two addresses, no network and no broadcast address.
pub(super) const VETH_PREFIX: u8 = 31;

/// The two /16 ranges that sandboxes of a host get their addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPlan {
    /// Base of the addresses by which the host reaches guests, one a slot.
    host: u32,
    /// Base of the veth addresses, two a slot.
    veth: u32,
}

/// Two ranges that cannot be used as an [`AddressPlan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// The base is not the first address of a /16.
    #[error("{0} is not the first address of a /16 range")]
    NotABase(Ipv4Addr),
    /// Both ranges are the same one.
    #[error("{0} cannot be the base of both ranges")]
    Same(Ipv4Addr),
}

/// The addresses of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxAddresses {
    /// How the host reaches the guest.
    pub host_ip: Ipv4Addr,
    /// The veth's end on the host.
    pub veth: Ipv4Addr,
    /// The veth's end inside the namespace.
    pub peer: Ipv4Addr,
}

impl Default for AddressPlan {
    fn default() -> Self {
        Self { host: Ipv4Addr::new(10, 11, 0, 0).to_bits(), veth: Ipv4Addr::new(10, 12, 0, 0).to_bits() }
    }
}

impl AddressPlan {
    /// A plan from the first addresses of two different /16 ranges.
    pub fn new(host: Ipv4Addr, veth: Ipv4Addr) -> Result<Self, InvalidPlan> {
        if let Some(base) = [host, veth].into_iter().find(|base| base.to_bits() & 0xFFFF != 0) {
            return Err(InvalidPlan::NotABase(base));
        }
        if host == veth {
            return Err(InvalidPlan::Same(host));
        }
        Ok(Self { host: host.to_bits(), veth: veth.to_bits() })
    }

    /// The addresses of `slot`. A slot is at most 32767, so two a slot stay inside a /16.
    pub fn of(&self, slot: Slot) -> SandboxAddresses {
        let index = u32::from(slot.number());
        SandboxAddresses {
            host_ip: (self.host + index).into(),
            veth: (self.veth + 2 * index).into(),
            peer: (self.veth + 2 * index + 1).into(),
        }
    }

    /// Base of the addresses by which the host reaches guests.
    pub(super) fn host_base(&self) -> Ipv4Addr {
        self.host.into()
    }

    /// Base of the veth addresses.
    pub(super) fn veth_base(&self) -> Ipv4Addr {
        self.veth.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(slot: u16, host_ip: &str, veth: &str, peer: &str) {
        let addresses = AddressPlan::default().of(Slot::new(slot).unwrap());
        let texts = [addresses.host_ip, addresses.veth, addresses.peer].map(|address| address.to_string());
        assert_eq!(texts, [host_ip, veth, peer]);
    }

    #[test]
    fn the_first_and_the_last_slot_stay_inside_their_ranges() {
        check(1, "10.11.0.1", "10.12.0.2", "10.12.0.3");
        check(32767, "10.11.127.255", "10.12.255.254", "10.12.255.255");
    }

    #[test]
    fn a_slot_beyond_the_old_byte_boundary_carries_over() {
        check(128, "10.11.0.128", "10.12.1.0", "10.12.1.1");
        check(256, "10.11.1.0", "10.12.2.0", "10.12.2.1");
    }

    #[test]
    fn only_two_different_ranges_make_a_plan() {
        let (one, two, odd) = (Ipv4Addr::new(10, 1, 0, 0), Ipv4Addr::new(10, 2, 0, 0), Ipv4Addr::new(10, 2, 0, 1));
        assert!(AddressPlan::new(one, two).is_ok());
        assert_eq!(AddressPlan::new(one, one), Err(InvalidPlan::Same(one)));
        assert_eq!(AddressPlan::new(one, odd), Err(InvalidPlan::NotABase(odd)));
    }

    proptest! {
        #[test]
        fn no_two_slots_share_an_address(a in Slot::FIRST..=Slot::LAST, b in Slot::FIRST..=Slot::LAST) {
            prop_assume!(a != b);
            let all: Vec<Ipv4Addr> = [a, b]
                .iter()
                .map(|slot| AddressPlan::default().of(Slot::new(*slot).unwrap()))
                .flat_map(|addresses| [addresses.host_ip, addresses.veth, addresses.peer])
                .collect();
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            prop_assert_eq!(distinct.len(), all.len());
        }
    }
}
