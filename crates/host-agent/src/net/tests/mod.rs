//! Whole networks, made for real: on a host of the test's own, with a guest played behind the tap.

mod fence;
mod machine;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::either::Either;

use super::links::Links;
use super::namespace::{self, NamespaceError};
use super::*;
use machine::{Machine, SOON, Server, dropped, lines, on_a_host, wait_until};

fn claim_dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn two_sandboxes_come_and_go_without_a_trace() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let before = server.inventory();
        let (_, mut one) = server.create().await;
        let (_, mut two) = server.create().await;
        assert_ne!(one.host_ip(), two.host_ip());
        let between = server.inventory();
        for part in [&one.namespace(), &format!("{} via", one.host_ip()), "claim 1", "claim 2", "h1@", "h2@"] {
            assert!(between.iter().any(|line| line.contains(part)), "no {part} in {between:#?}");
        }
        one.delete().await.unwrap();
        two.delete().await.unwrap();
        one.delete().await.unwrap();
        assert_eq!(server.inventory(), before);
        server.network.close().await.unwrap();
        server.network.close().await.unwrap();
        assert_eq!(lines("nft", &["list", "tables"]), Vec::<String>::new());
    });
}

#[test]
fn the_host_reaches_the_guest_by_its_host_ip() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let (connected, peer) = tokio::join!(TcpStream::connect((network.host_ip(), guest.port())), guest.next_peer());
        connected.unwrap();
        assert_eq!(peer, IpAddr::V4(network.addresses.veth));
        network.delete().await.unwrap();
    });
}

#[test]
fn connections_of_the_host_agent_come_from_its_side_of_the_tap() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let mut networks = [server.create().await.1, server.create().await.1];
        for network in &mut networks {
            let guest = Machine::guest(network).await;
            let (connected, peer) = tokio::join!(network.connect(guest.port(), SOON), guest.next_peer());
            let Either::Left(connected) = connected.unwrap() else { panic!("a guest is reached by TCP") };
            assert_eq!(connected.peer_addr().unwrap().ip(), GUEST_IP);
            assert_eq!(peer, TAP_IP);
            network.delete().await.unwrap();
        }
    });
}

#[test]
fn a_guest_that_does_not_answer_costs_no_more_than_the_timeout() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (_, mut network) = server.create().await;
        let error = network.connect(49983, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        network.delete().await.unwrap();
    });
}

#[test]
fn a_guest_reaches_the_world_under_the_host_s_address() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let world = Ipv4Addr::new(203, 0, 113, 2);
        let (connected, peer) = tokio::join!(guest.connect(world, outside.port()), outside.next_peer());
        connected.unwrap();
        assert_eq!(peer, Ipv4Addr::new(203, 0, 113, 1));
        network.delete().await.unwrap();
    });
}

#[test]
fn the_world_does_not_reach_a_guest() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        outside.links.add_default_route(Ipv4Addr::new(203, 0, 113, 1)).await.unwrap();
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        expect_drop(&server, outside.connect(network.host_ip(), guest.port()), &guest).await;
        network.delete().await.unwrap();
    });
}

#[test]
fn guests_do_not_reach_each_other() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (mut one, mut two) = (server.create().await.1, server.create().await.1);
        let (guest, other) = (Machine::guest(&mut one).await, Machine::guest(&mut two).await);
        tokio::select! {
            result = guest.connect(two.host_ip(), other.port()) => panic!("the attempt ended: {result:?}"),
            peer = other.next_peer() => panic!("the attempt of {peer} arrived"),
            () = fence::until(&one, "a fenced packet", |denials| denials.fenced) => {}
        }
        lines("ip", &["netns", "exec", &one.namespace(), "nft", "flush", "set", "ip", "sandbox", "fenced"]);
        expect_drop(&server, guest.connect(two.host_ip(), other.port()), &other).await;
        one.delete().await.unwrap();
        two.delete().await.unwrap();
    });
}

/// Waits until the host's rules drop the attempt; it must not arrive at `target`.
async fn expect_drop(server: &Server, attempt: impl Future<Output = io::Result<TcpStream>>, target: &Machine) {
    let table = names::table(&server.config.instance);
    let is_dropped = || dropped(&lines("nft", &["list", "table", "ip", &table])) > 0;
    assert!(!is_dropped());
    tokio::select! {
        result = attempt => panic!("the attempt ended: {result:?}"),
        peer = target.next_peer() => panic!("the attempt of {peer} arrived"),
        () = wait_until("a drop", is_dropped) => {}
    }
}

#[test]
fn a_namespace_forwards_ipv4_and_has_no_ipv6() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (_, mut network) = server.create().await;
        let inside = |command: &[&str]| lines("ip", &[&["netns", "exec", &network.namespace()], command].concat());
        assert_eq!(inside(&["cat", "/proc/sys/net/ipv4/ip_forward"]), ["1"]);
        assert_eq!(inside(&["ip", "-6", "-o", "address"]), Vec::<String>::new());
        assert!(inside(&["ip", "neighbour"])[0].contains("02:fc:00:00:00:05 PERMANENT"));
        network.delete().await.unwrap();
    });
}

#[test]
fn a_failure_once_its_monitor_may_start_lets_nothing_through_and_leaves_nothing() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        // The route that the first slot needs is taken.
        lines("ip", &["link", "set", "lo", "up"]);
        lines("ip", &["route", "add", "10.11.0.1/32", "dev", "lo"]);
        let before = server.inventory();
        let mut network = server.network.create(&SandboxId::random(), &NetworkPolicy::default()).await.unwrap();
        let error = network.ready().await.expect_err("the route is taken");
        assert!(matches!(error, CreateError::Link(LinkError::Route { .. })), "{error:?}");
        let tap = lines("ip", &["-n", &network.namespace(), "-o", "link", "show", "tap0"]);
        assert!(tap[0].contains("state DOWN"), "{tap:?}");
        network.delete().await.unwrap();
        assert_eq!(server.inventory(), before);
    });
}

#[test]
fn a_failure_midway_leaves_nothing_not_even_its_cause() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let before = server.inventory();
        let first = Slot::new(Slot::FIRST).unwrap();
        lines("ip", &["link", "add", &names::veth(&server.config.instance, first), "type", "veth"]);
        let mut network = server.network.create(&SandboxId::random(), &NetworkPolicy::default()).await.unwrap();
        let error = network.ready().await.expect_err("the name is taken");
        assert!(matches!(error, CreateError::Link(LinkError::MakeVeth { .. })), "{error:?}");
        network.delete().await.unwrap();
        assert_eq!(server.inventory(), before);
        server.create().await.1.delete().await.unwrap();
    });
}

#[test]
fn a_network_that_nobody_waits_for_any_more_is_removed_whole() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let before = server.inventory();
        let mut network = server.network.create(&SandboxId::random(), &NetworkPolicy::default()).await.unwrap();
        network.delete().await.unwrap();
        assert_eq!(server.inventory(), before);
    });
}

#[test]
fn two_installations_share_a_machine_and_sweep_only_their_own() {
    on_a_host(|| async {
        let claims = claim_dir();
        let (one, two) = (Server::start(claims.path()).await, Server::start(claims.path()).await);
        let before = [one.inventory(), two.inventory()];
        let create_three = |server: &Server| {
            let network = server.network.clone();
            async move {
                let policy = NetworkPolicy::default();
                let sandboxes: [SandboxId; 3] = std::array::from_fn(|_| SandboxId::random());
                let mut networks =
                    futures::future::try_join_all(sandboxes.iter().map(|sandbox| network.create(sandbox, &policy)))
                        .await
                        .unwrap();
                futures::future::try_join_all(networks.iter_mut().map(SandboxNetwork::ready)).await.unwrap();
                networks
            }
        };
        let (ours, theirs) = tokio::join!(create_three(&one), create_three(&two));
        let slots: HashSet<Slot> = ours.iter().chain(&theirs).map(SandboxNetwork::slot).collect();
        assert_eq!(slots.len(), 6);
        one.network.sweep(&HashSet::new()).await.unwrap();
        for network in &theirs {
            assert!(two.inventory().iter().any(|line| line.starts_with(&network.namespace())));
        }
        two.network.sweep(&HashSet::new()).await.unwrap();
        assert_eq!([one.inventory(), two.inventory()], before);
    });
}

#[test]
fn a_sweep_removes_what_is_neither_kept_nor_claimed() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (sandbox, mut kept) = server.create().await;
        let with_kept = server.inventory();
        let (_, mut stale) = server.create().await;
        let (_, unclaimed) = server.create().await;
        std::fs::remove_file(claims.path().join(unclaimed.slot().to_string())).unwrap();
        server.network.sweep(&HashSet::from([sandbox])).await.unwrap();
        assert_eq!(server.inventory(), with_kept);

        let (_, successor) = server.create().await;
        assert_eq!(successor.slot(), stale.slot());
        let with_successor = server.inventory();
        stale.delete().await.unwrap();
        assert_eq!(server.inventory(), with_successor, "a network that was swept is not deleted twice");
        kept.delete().await.unwrap();
    });
}

#[test]
fn what_an_installation_left_that_is_gone_is_swept_by_others() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let before = server.inventory();
        let gone = Server::start(claims.path()).await;
        let with_both = gone.inventory();
        let (_, orphan) = gone.create().await;
        server.network.sweep(&HashSet::new()).await.unwrap();
        assert_ne!(gone.inventory(), with_both, "an installation that is there keeps its own");

        std::fs::remove_file(gone.config.data_dir.join("instance-id")).unwrap();
        server.network.sweep(&HashSet::new()).await.unwrap();
        assert_eq!(server.inventory(), before);
        assert!(!namespace::names().unwrap().contains(&orphan.namespace()));
        assert_eq!(server.create().await.1.slot(), orphan.slot());
    });
}

#[test]
fn namespaces_that_others_name_later_do_not_cover_ours() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (_, mut network) = server.create().await;
        lines("ip", &["netns", "add", "of-somebody-else"]);
        network.delete().await.unwrap();
        assert_eq!(namespace::names().unwrap(), ["of-somebody-else"]);
    });
}

#[test]
fn namespaces_that_were_named_before_are_not_covered_by_us() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        lines("mkdir", &["/run/netns"]);
        lines("touch", &["/run/netns/earlier"]);
        lines("mount", &["--bind", "/proc/self/ns/net", "/run/netns/earlier"]);
        let (_, mut network) = server.create().await;
        namespace::remove("earlier").unwrap();
        network.delete().await.unwrap();
        assert_eq!(namespace::names().unwrap(), [""; 0]);
    });
}

#[test]
fn an_installation_starts_beside_what_it_cannot_remove_of_one_that_is_gone() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let gone = Server::start(claims.path()).await;
        let (_, orphan) = gone.create().await;
        std::fs::remove_file(gone.config.data_dir.join("instance-id")).unwrap();
        // Covered by another mount of its own directory, which no longer has the name.
        lines("mount", &["--bind", "/run/netns", "/run/netns"]);
        server.network.sweep(&HashSet::new()).await.unwrap();
        let (_, mut other) = server.create().await;
        assert_ne!(other.slot(), orphan.slot(), "its place stays taken");
        other.delete().await.unwrap();
        lines("umount", &["/run/netns"]);
        server.network.sweep(&HashSet::new()).await.unwrap();
        assert_eq!(namespace::names().unwrap(), [""; 0]);
    });
}

#[test]
fn an_installation_that_moved_keeps_its_sandboxes() {
    on_a_host(|| async {
        let (claims, moved) = (claim_dir(), claim_dir());
        let server = Server::start(claims.path()).await;
        let before = server.inventory();
        let (sandbox, _network) = server.create().await;
        let with_sandbox = server.inventory();
        std::fs::rename(server.config.data_dir.join("instance-id"), moved.path().join("instance-id")).unwrap();
        let config = NetworkConfig { data_dir: moved.path().to_owned(), ..server.config.clone() };
        let network = Network::open(config).await.unwrap();
        network.sweep(&HashSet::from([sandbox])).await.unwrap();
        assert_eq!(server.inventory(), with_sandbox);
        network.sweep(&HashSet::new()).await.unwrap();
        // What is left of `_network` is the tap's descriptor, in a namespace without a name.
        assert_eq!(server.inventory(), before);
    });
}

#[test]
fn a_data_directory_without_its_own_id_is_refused() {
    on_a_host(|| async {
        let (data, claims) = (claim_dir(), claim_dir());
        let mut config = NetworkConfig::new(InstanceId::random(), data.path());
        config.claim_dir = claims.path().to_owned();
        assert!(matches!(Network::open(config.clone()).await, Err(OpenError::InstanceId { .. })));
        std::fs::write(data.path().join("instance-id"), "another").unwrap();
        assert!(matches!(Network::open(config).await, Err(OpenError::OtherInstance { .. })));
    });
}

#[test]
fn the_runtime_s_own_threads_stay_in_the_host_s_namespace() {
    on_a_host(|| async {
        let home = lines("readlink", &["/proc/self/ns/net"]);
        let inside = namespace::in_new(|| Ok::<_, NamespaceError>(lines("readlink", &["/proc/self/ns/net"])));
        assert_ne!(inside.await.unwrap(), home);
        assert_eq!(lines("readlink", &["/proc/self/ns/net"]), home);
        assert!(!Links::open().unwrap().names().await.unwrap().contains(&names::TAP.to_owned()));
    });
}
