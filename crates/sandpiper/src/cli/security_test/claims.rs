//! What is claimed, how that is tested, and what was done to see the test fail: the table that `docs/security.md` refers to.

use super::{jail, load, network, proxy};

/// One claim. Everything in it is printed.
#[derive(Debug)]
pub struct Claim {
    /// The name by which it is asked for and by which the documents know it.
    pub id: &'static str,
    /// What holds.
    pub claim: &'static str,
    /// How it is tested.
    pub how: &'static str,
    /// With what switched off, or what done beside, the same test is shown to fail; absent where it brings its own
    /// comparison.
    pub fails: Option<&'static str>,
    pub check: Check,
}

/// What tests a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Looks at every monitor.
    Jail(jail::Check),
    /// Attacks from inside, over the network.
    Network(network::Check),
    /// Asks for what no caller is given, by the proxy and from inside.
    Proxy(proxy::Check),
    /// Takes as much as there is, while a neighbour is watched.
    Load(load::Check),
}

const fn jail(id: &'static str, claim: &'static str, how: &'static str, check: jail::Check) -> Claim {
    Claim { id, claim, how, fails: Some("on a process without a jail"), check: Check::Jail(check) }
}

const fn network(
    id: &'static str,
    claim: &'static str,
    how: &'static str,
    fails: &'static str,
    check: network::Check,
) -> Claim {
    Claim { id, claim, how, fails: Some(fails), check: Check::Network(check) }
}

const fn load(
    id: &'static str,
    claim: &'static str,
    how: &'static str,
    fails: Option<&'static str>,
    check: load::Check,
) -> Claim {
    Claim { id, claim, how, fails, check: Check::Load(check) }
}

/// All of them, in the order in which they are tested.
pub static CLAIMS: [Claim; 25] = [
    jail(
        "jail-user",
        "A monitor is nobody's: its uid and gid are its own and no other monitor's",
        "Uid, Gid and Groups of every monitor in /proc",
        jail::Check::User,
    ),
    jail(
        "jail-privileges",
        "It has no capabilities and cannot get any",
        "its five capability sets and NoNewPrivs",
        jail::Check::Privileges,
    ),
    jail("jail-seccomp", "It is under QEMU's seccomp filter", "its seccomp mode", jail::Check::Seccomp),
    jail(
        "jail-namespaces",
        "It sees no process, and no network but an empty one",
        "its mount, pid, network, IPC and UTS namespaces, and its links",
        jail::Check::Namespaces,
    ),
    jail(
        "jail-root",
        "Its file system is read-only and is not the host's",
        "its root directory and its mounts",
        jail::Check::Root,
    ),
    jail(
        "jail-files",
        "It has no file of the host or of another sandbox open",
        "its descriptors, and how they are open",
        jail::Check::Files,
    ),
    jail(
        "jail-cgroup",
        "Its memory, processors and threads are limited by a group of its own",
        "its control groups and their limits",
        jail::Check::Cgroup,
    ),
    jail(
        "jail-limits",
        "It dumps no core, opens few files, and goes first where the host's memory runs out",
        "its resource limits and oom_score_adj",
        jail::Check::Limits,
    ),
    network(
        "private-ranges",
        "A guest reaches no private, shared, link-local or metadata address",
        "TCP, UDP and ICMP to one address of each range, each a listener of the test's, as is a public one that it does reach",
        "with the fenced ranges taken out of both layers",
        network::Check::Private,
    ),
    network(
        "host",
        "It reaches no address of the host, a public one included, nor the control plane",
        "TCP, UDP and ICMP to listeners on every address of the host, and to the API's port",
        "with the host's rules for what comes in taken away",
        network::Check::Host,
    ),
    network(
        "neighbours",
        "It reaches no other guest",
        "TCP, UDP and ICMP to a listener in another sandbox, by both of its addresses",
        "with the rules of the attacker, the neighbour and the host between them taken away",
        network::Check::Neighbour,
    ),
    network(
        "spoofing",
        "It sends under no other address",
        "raw frames: foreign and neighbours' addresses, a foreign MAC, a VLAN, a forged ARP answer; and one of its own",
        "with the rules of the tap taken away",
        network::Check::Spoofing,
    ),
    network(
        "ipv6",
        "It sends no IPv6",
        "raw frames of IPv6, beside one of IPv4 that does arrive",
        "with the rules of the tap taken away",
        network::Check::Ipv6,
    ),
    network(
        "outside",
        "No machine in the world reaches a guest",
        "a connection from outside to a listener that the host itself reaches",
        "with the rules of the host and of the sandbox for what comes in taken away",
        network::Check::Outside,
    ),
    network(
        "no-internet",
        "Without internet access it reaches nothing, and no name servers",
        "the same address before and after, by TCP, UDP and ICMP, and a question for a name",
        "with a rule before the policy's that lets everything through",
        network::Check::Off,
    ),
    network(
        "live-policy",
        "A new policy holds for connections that are open",
        "a connection that writes all the time while the policy is replaced",
        "with a rule before the policy's that lets everything through",
        network::Check::Live,
    ),
    network(
        "names",
        "Where it may reach names, it reaches no other one, no resolver, and no address that a name did not lead to",
        "questions for other names, questions and QUIC to an address outside, HTTP to it under the right name",
        "with rules before the policy's that lead past resolver and proxy",
        network::Check::Names,
    ),
    network(
        "connection-rate",
        "It begins and has only so many connections",
        "6000 connections as quickly as it can",
        "without the rules for beginning connections",
        network::Check::Flood,
    ),
    Claim {
        id: "proxy-control",
        claim: "The guest agent's control routes answer no caller of the proxy",
        how: "the agent's ports by Host and by headers, beside a port of the guest's that does answer",
        fails: Some("through a proxy that refuses no port"),
        check: Check::Proxy(proxy::Check::Outside),
    },
    Claim {
        id: "guest-control",
        claim: "They answer no process in the guest, unless root there takes the host's address",
        how: "the control routes from inside, beside one that is open to all; and one at the host's address",
        fails: None,
        check: Check::Proxy(proxy::Check::Inside),
    },
    load(
        "fork-bomb",
        "A guest that forks without end takes no more threads of the host, and its neighbour goes on",
        "a fork bomb of some seconds; threads of its monitor; commands in the neighbour all the while",
        Some("with the limit of its group lifted, and a process in the group that forks"),
        load::Check::Forks,
    ),
    load(
        "memory-hog",
        "A guest that takes all memory takes no more than its shape, and its neighbour goes on",
        "memory taken without end for some seconds; its monitor's memory; commands in the neighbour",
        Some("with the limit of its group lifted, and a process in the group that takes memory"),
        load::Check::Memory,
    ),
    load(
        "cpu-burn",
        "A guest that computes takes no more processors than it has, and its neighbour goes on",
        "eight loops; its monitor's time on processors; commands in the neighbour",
        None,
        load::Check::Processors,
    ),
    load(
        "disk-flood",
        "A guest that writes takes no more than its disk, no faster than it may, and its neighbour goes on",
        "reading and writing for some seconds, and a file larger than the disk; what its monitor moves and its files take; \
         commands in the neighbour",
        Some("with a process in its group that reads and writes past the limits"),
        load::Check::Disk,
    ),
    load(
        "console-flood",
        "A guest that floods its console and its kernel's log takes nothing for that, and its neighbour goes on",
        "both for some seconds; what is on the host's disk beside its own; commands in the neighbour",
        Some("with a process that writes a file beside the disk"),
        load::Check::Console,
    ),
];

/// The claim of this name, for the grammar.
pub fn find(id: &str) -> Result<&'static Claim, String> {
    let known = || CLAIMS.iter().map(|claim| claim.id).collect::<Vec<_>>().join(", ");
    CLAIMS.iter().find(|claim| claim.id == id).ok_or_else(|| format!("it is none of {}", known()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documents_name_every_claim_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/security.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        let last_but_one = rows.filter_map(|row| row.rsplit('|').nth(2));
        let named: Vec<&str> = last_but_one.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let distinct: BTreeSet<_> = named.iter().copied().collect();
        assert_eq!(distinct, CLAIMS.iter().map(|claim| claim.id).collect());
    }

    #[test]
    fn claims_have_names_of_their_own_and_all_but_comparisons_are_seen_to_fail() {
        let names: BTreeSet<_> = CLAIMS.iter().map(|claim| claim.id).collect();
        assert_eq!(names.len(), CLAIMS.len());
        for claim in &CLAIMS {
            let comparisons = [Check::Proxy(proxy::Check::Inside), Check::Load(load::Check::Processors)];
            let compares = comparisons.contains(&claim.check);
            assert_eq!(claim.fails.is_none(), compares, "{}", claim.id);
            assert_eq!(find(claim.id).unwrap().check, claim.check);
        }
        assert!(find("nothing").unwrap_err().contains("jail-user"));
    }
}
