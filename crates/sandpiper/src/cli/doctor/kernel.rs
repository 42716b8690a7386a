//! What sandboxes need from this machine's kernel: taps, namespaces, packet filter, cgroups, forwarding.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::check::Check;
use super::program::{Failure, ask};

const TUN: &str = "/dev/net/tun";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// What sandboxes need of the packet filter, tried in a namespace that is gone right afterwards.
const PROBE: &str = "add table ip probe; \
    add chain ip probe nat { type nat hook postrouting priority 100; }; \
    add rule ip probe nat masquerade";

/// Whether taps can be made.
pub fn tun() -> Check {
    match OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Check::ok(TUN, "opens for reading and writing"),
        Err(error) => Check::missing(
            TUN,
            error.to_string(),
            "guests have no network card without it: load the module tun (`modprobe tun`); in a container, pass the \
             device in",
        ),
    }
}

/// Whether a network namespace can be made. A child tries it, and takes it along when it ends.
pub async fn network_namespaces() -> Check {
    let name = "network namespaces";
    match ask("unshare", &["--net", "true"]).await {
        Ok(_) => Check::ok(name, "can be made"),
        Err(Failure::Absent) => Check::missing(name, "cannot be tried", "install the Debian package util-linux"),
        Err(Failure::Failed(why)) => {
            Check::missing(name, why, "every sandbox has its own: run as root, in a container with CAP_SYS_ADMIN")
        }
    }
}

/// Whether nft is there and the kernel does what is asked of it.
pub async fn firewall() -> Check {
    if let Err(Failure::Absent) = ask("nft", &["--version"]).await {
        let advice =
            "it separates sandboxes from the network: run `make setup`, or install the Debian package nftables";
        return Check::missing("nft", "not installed", advice);
    }
    match ask("unshare", &["--net", "nft", PROBE]).await {
        Ok(_) => Check::ok("nft", "filters and translates addresses"),
        Err(Failure::Absent) => Check::missing("nft", "cannot be tried", "install the Debian package util-linux"),
        Err(Failure::Failed(why)) => Check::missing(
            "nft",
            why,
            "run as root, on a kernel with the modules nf_tables, nft_chain_nat and nft_masq",
        ),
    }
}

/// Which layers of the jail around virtual machines this machine has. Without one a server does not start by itself.
pub fn jail() -> Check {
    let name = "jail";
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let version = cgroup_version(&mounts).unwrap_or("none");
    let lacking = host_agent::jail::lacking(host_agent::cgroup::unmounted(&mounts));
    if lacking.is_empty() {
        return Check::ok(name, format!("every layer can be had (cgroup {version})"));
    }
    let layers: Vec<_> = lacking.iter().map(|lacking| lacking.layer.as_str()).collect();
    let found = format!("cannot have {}: {}", layers.join(", "), lacking[0].reason);
    if !lacking.iter().any(|lacking| lacking.layer.is_required()) {
        let advice =
            "monitors limit their guests' disks themselves; for a second limit mount the controller io or blkio";
        return Check::warning(name, found, advice);
    }
    Check::missing(
        name,
        found,
        format!(
            "mount cgroup2 on /sys/fs/cgroup, or start a kernel with Landlock; or go on with less protection, by \
             --allow-degraded-jail {}",
            layers.join(",")
        ),
    )
}

/// Whether packets can leave sandboxes. The host agent switches it on where it may.
pub fn forwarding() -> Check {
    let name = "ip_forward";
    let value = fs::read_to_string(FORWARD).unwrap_or_default();
    match (value.trim(), is_writable(FORWARD)) {
        ("1", _) => Check::ok(name, "1"),
        (_, true) => Check::ok(name, "0; the host agent switches it on"),
        (_, false) => Check::warning(
            name,
            "0, and it cannot be changed here",
            "sandboxes have no way to other machines: run `sysctl -w net.ipv4.ip_forward=1` on the host",
        ),
    }
}

fn is_writable(path: impl AsRef<Path>) -> bool {
    OpenOptions::new().write(true).open(path).is_ok()
}

fn cgroup_version(mounts: &str) -> Option<&'static str> {
    let has = |kind: &str| mounts.lines().any(|line| line.split_whitespace().nth(2) == Some(kind));
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => Some("hybrid: controllers on v1 beside a v2 mount"),
        (true, false) => Some("v1"),
        (false, true) => Some("v2"),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_versions_are_known_by_their_mounts() {
        let v1 = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let v2 = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup_version(v1), Some("v1"));
        assert_eq!(cgroup_version(v2), Some("v2"));
        assert!(cgroup_version(&format!("{v1}{v2}")).unwrap().starts_with("hybrid"));
        assert_eq!(cgroup_version("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"), None);
    }
}
