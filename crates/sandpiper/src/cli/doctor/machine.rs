//! Who asks, and what room there is: root, disk, port, names.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;

use super::check::Check;

const GIB: u64 = 1 << 30;
/// Two templates with the room that building one needs.
const NEEDED_BYTES: u64 = 3 * GIB;
/// What some dozens of sandboxes write.
const COMFORTABLE_BYTES: u64 = 10 * GIB;

/// Whether we are root.
pub fn root() -> Check {
    let user = rustix::process::geteuid();
    if user.is_root() {
        Check::ok("root", "yes")
    } else {
        let advice = "namespaces, taps and jails need root: use sudo. Other answers may differ as root, too";
        Check::missing("root", format!("user {}", user.as_raw()), advice)
    }
}

/// Room for templates and sandboxes.
pub fn disk_space(data_dir: &Path) -> Check {
    let existing = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(disk) => judge(disk.f_bavail.saturating_mul(disk.f_frsize), existing),
        Err(error) => Check::missing("disk", format!("{}: {error}", existing.display()), "choose another --data-dir"),
    }
}

fn judge(free: u64, path: &Path) -> Check {
    let found = format!("{}.{} GiB free at {}", free / GIB, free % GIB * 10 / GIB, path.display());
    if free < NEEDED_BYTES {
        Check::missing("disk", found, "templates alone need 3 GiB: make room, or choose another --data-dir")
    } else if free < COMFORTABLE_BYTES {
        Check::warning("disk", found, "enough to begin with; sandboxes that write need more")
    } else {
        Check::ok("disk", found)
    }
}

/// Whether a server could listen. The port is free again when this returns.
pub fn port(address: SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        Err(error) => {
            let advice = "fine if that is a Sandpiper server; else choose another address with --listen";
            Check::warning("port", format!("{address}: {error}"), advice)
        }
    }
}

/// Whether names below `localhost` are this machine's own, as those of sandboxes' ports are.
pub fn names() -> Check {
    let name = "8080-name.localhost";
    let addresses = (name, 0).to_socket_addrs();
    if addresses.is_ok_and(|mut addresses| addresses.all(|address| address.ip().is_loopback())) {
        return Check::ok("names", format!("{name} is this machine"));
    }
    let advice = "programs here cannot call ports of sandboxes by their names: run `make setup`, or install the Debian \
                  package libnss-myhostname";
    Check::warning("names", format!("{name} is not this machine"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Level;

    #[test]
    fn disk_space_is_judged_by_what_templates_and_sandboxes_need() {
        let level = |gib: u64| judge(gib * GIB, Path::new("/x")).level;
        assert_eq!(
            (level(2), level(3), level(9), level(10)),
            (Level::Missing, Level::Warning, Level::Warning, Level::Ok)
        );
        assert_eq!(judge(GIB * 5 / 2, Path::new("/x")).found, "2.5 GiB free at /x");
    }

    #[test]
    fn a_data_directory_that_does_not_exist_yet_is_judged_by_what_is_above_it() {
        assert!(disk_space(Path::new("/no/such/directory")).found.ends_with("free at /"));
    }

    #[test]
    fn a_port_in_use_is_a_warning() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(port(taken.local_addr().unwrap()).level, Level::Warning);
        assert_eq!(port("127.0.0.1:0".parse().unwrap()).level, Level::Ok);
    }
}
