//! The names that an installation's networks carry on the machine, and back from a name to its slot. Pure.

use model::InstanceId;

use super::slot::Slot;

/// The veth's end inside the namespace.
pub(super) const PEER: &str = "eth0";
/// The tap inside the namespace.
pub(super) const TAP: &str = "tap0";

/// The namespace of a sandbox, as `ip netns` shows it.
pub(super) fn namespace(instance: &InstanceId, slot: Slot) -> String {
    format!("{}{slot}", namespace_prefix(instance))
}

/// What the names of all namespaces of an installation begin with.
pub(super) fn namespace_prefix(instance: &InstanceId) -> String {
    format!("sp-{instance}-")
}

/// The host's end of a sandbox's veth pair: at most 14 characters, the kernel takes 15.
pub(super) fn veth(instance: &InstanceId, slot: Slot) -> String {
    format!("{}{slot}", veth_prefix(instance))
}

/// What the names of all veths of an installation begin with.
pub(super) fn veth_prefix(instance: &InstanceId) -> String {
    format!("sp{instance}h")
}

/// The firewall table of an installation on the host.
pub(super) fn table(instance: &InstanceId) -> String {
    format!("sp_{instance}")
}

/// The slot in a name with this prefix, if it is one of ours.
pub(super) fn slot_in(name: &str, prefix: &str) -> Option<Slot> {
    let digits = name.strip_prefix(prefix)?;
    let slot = Slot::new(digits.parse().ok()?)?;
    (slot.to_string() == digits).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_veth_name_fits_an_interface_name() {
        let name = veth(&InstanceId::random(), Slot::new(Slot::LAST).unwrap());
        assert!(name.len() <= 15, "{name}");
    }

    #[test]
    fn names_lead_back_to_their_slot_and_to_no_other_instance() {
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let slot = Slot::new(407).unwrap();
        assert_eq!(slot_in(&namespace(&one, slot), &namespace_prefix(&one)), Some(slot));
        assert_eq!(slot_in(&veth(&one, slot), &veth_prefix(&one)), Some(slot));
        assert_eq!(slot_in(&veth(&one, slot), &veth_prefix(&two)), None);
    }

    #[test]
    fn names_that_only_look_like_ours_have_no_slot() {
        for name in ["sp-", "sp-0", "sp-01", "sp-+1", "sp-32768", "sp-1x", "sp--1"] {
            assert_eq!(slot_in(name, "sp-"), None, "{name}");
        }
    }
}
