//! The fence: what a guest cannot reach, whatever it sends. Every target is a listener of the test's own, in a namespace
//! beyond the host's, so that a hole shows as a hit there.

use std::net::Ipv4Addr;

use model::NetworkPolicy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::machine::{Machine, SOON, Server, lines, on_a_host};
use super::*;

const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// One of each kind of address that no guest may reach.
const PRIVATE: [Ipv4Addr; 9] = [
    Ipv4Addr::new(10, 66, 0, 1),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 64, 0, 9),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 16, 9, 9),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(192, 168, 7, 7),
    Ipv4Addr::new(198, 18, 0, 1),
    Ipv4Addr::new(240, 0, 0, 1),
];

fn policy(text: &str) -> NetworkPolicy {
    serde_json::from_str(text).unwrap()
}

/// Lets the machine outside have these addresses too, with a way to them.
async fn lead_outside(outside: &Machine, addresses: &[Ipv4Addr]) {
    for address in addresses {
        outside.links.add_address("eth0", *address, 32).await.unwrap();
        Links::open().unwrap().add_route_to(*address, WORLD).await.unwrap();
    }
}

/// Waits until the sandbox's rules have counted what `count` looks at.
pub(super) async fn until(network: &SandboxNetwork, what: &str, count: impl Fn(&Denials) -> u64) {
    let wait = async {
        while count(&network.denials().await.unwrap()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what} was not counted"));
}

#[test]
fn no_private_range_is_reached_unless_the_fence_is_taken_away() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        lead_outside(&outside, &PRIVATE).await;
        // What is allowed by a policy is none of the fence's business.
        let allowed = policy(r#"{"allow_out":["0.0.0.0/0"]}"#);
        let (_, mut network) = server.create().await;
        network.apply(&allowed).await.unwrap();
        let guest = Machine::guest(&mut network).await;
        let mut seen = 0;
        for address in PRIVATE {
            tokio::select! {
                result = guest.connect(address, outside.port()) => panic!("{address}: {result:?}"),
                _ = outside.next_peer() => panic!("{address} was reached"),
                () = until(&network, "a fenced packet", |denials| denials.fenced.saturating_sub(seen)) => {}
            }
            seen = network.denials().await.unwrap().fenced;
        }

        // The test would see a hole: without the fence, inside and on the host, the same attempts arrive.
        lines("ip", &["netns", "exec", &network.namespace(), "nft", "flush", "set", "ip", "sandbox", "fenced"]);
        lines("nft", &["flush", "set", "ip", &names::table(&server.config.instance), "fenced"]);
        for address in &PRIVATE[..8] {
            let (connected, _) = tokio::join!(guest.connect(*address, outside.port()), outside.next_peer());
            connected.unwrap_or_else(|error| panic!("{address} without a fence: {error}"));
        }
        network.delete().await.unwrap();
    });
}

#[test]
fn the_host_keeps_guests_from_private_ranges_even_where_a_sandbox_s_own_rules_do_not() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        lead_outside(&outside, &PRIVATE[..1]).await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        lines("ip", &["netns", "exec", &network.namespace(), "nft", "flush", "set", "ip", "sandbox", "fenced"]);
        expect_drop(&server, guest.connect(PRIVATE[0], outside.port()), &outside).await;
        network.delete().await.unwrap();
    });
}

#[test]
fn no_address_of_the_host_is_reached_not_even_a_public_one() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let _outside = Machine::outside().await;
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let table = names::table(&server.config.instance);
        for (address, by_host) in [
            (Ipv4Addr::new(203, 0, 113, 1), true),
            (network.addresses.veth, false),
            (network.addresses.peer, false),
            (TAP_IP, false),
        ] {
            let host_drops = || dropped(&lines("nft", &["list", "table", "ip", &table]));
            let (before, seen) = (host_drops(), network.denials().await.unwrap().fenced);
            tokio::select! {
                result = guest.connect(address, port) => panic!("{address}: {result:?}"),
                result = listener.accept() => panic!("{address} was reached: {result:?}"),
                () = wait_until("a drop by the host", || host_drops() > before), if by_host => {}
                () = until(&network, "a fenced packet", |denials| denials.fenced.saturating_sub(seen)), if !by_host => {}
            }
        }
        network.delete().await.unwrap();
    });
}

#[test]
fn a_new_policy_holds_at_once_also_for_open_connections() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let port = outside.port();
        let (mine, theirs) = tokio::join!(guest.connect(WORLD, port), outside.listener.accept());
        let (mut mine, (mut theirs, _)) = (mine.unwrap(), theirs.unwrap());
        mine.write_all(b"before").await.unwrap();
        let mut buffer = [0; 6];
        theirs.read_exact(&mut buffer).await.unwrap();

        network.apply(&policy(r#"{"allow_internet_access":false}"#)).await.unwrap();
        mine.write_all(b"after").await.unwrap();
        let cut = tokio::time::timeout(SOON, mine.read_u8()).await.expect("the connection is reset");
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(guest.connect(WORLD, port).await.is_err());
        assert!(network.denials().await.unwrap().denied >= 2);

        network.apply(&policy(r#"{"allow_out":["203.0.113.0/24"],"deny_out":["0.0.0.0/0"]}"#)).await.unwrap();
        let (connected, _) = tokio::join!(guest.connect(WORLD, port), outside.next_peer());
        connected.unwrap();
        network.apply(&policy(r#"{"deny_out":["203.0.113.2"]}"#)).await.unwrap();
        assert!(guest.connect(WORLD, port).await.is_err());
        network.apply(&NetworkPolicy::default()).await.unwrap();
        let (connected, _) = tokio::join!(guest.connect(WORLD, port), outside.next_peer());
        connected.unwrap();
        network.delete().await.unwrap();
    });
}

#[test]
fn a_sandbox_begins_with_the_policy_that_it_is_made_with() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        let off = policy(r#"{"allow_internet_access":false}"#);
        let mut network = server.create_with(&SandboxId::random(), &off).await;
        let guest = Machine::guest(&mut network).await;
        assert!(guest.connect(WORLD, outside.port()).await.is_err());
        assert!(guest.connect(TAP_IP, 53).await.is_err(), "and no names");
        network.delete().await.unwrap();
    });
}

#[test]
fn nothing_but_ipv4_under_the_guest_s_own_addresses_leaves_the_tap() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        // The guest's own kernel looks for IPv6 routers.
        until(&network, "IPv6", |denials| denials.not_ipv4).await;
        let spoofed = Ipv4Addr::new(198, 51, 100, 1);
        guest.links.add_address("eth0", spoofed, 32).await.unwrap();
        let socket = guest.socket().await;
        socket.bind((spoofed, 0).into()).unwrap();
        tokio::select! {
            result = socket.connect((WORLD, 1).into()) => panic!("it went through: {result:?}"),
            () = until(&network, "a foreign address", |denials| denials.spoofed) => {}
        }
        let seen = network.denials().await.unwrap().spoofed;
        guest.links.bring_up_as("eth0", [0x02, 0xFC, 0, 0, 0, 0x77]).await.unwrap();
        tokio::select! {
            result = guest.connect(WORLD, 1) => panic!("it went through: {result:?}"),
            () = until(&network, "a foreign MAC", |denials| denials.spoofed.saturating_sub(seen)) => {}
        }
        network.delete().await.unwrap();
    });
}

#[test]
fn names_are_asked_of_the_host_s_servers_and_of_those_alone_in_private_ranges() {
    on_a_host(|| async {
        let claims = claim_dir();
        let resolver = PRIVATE[0];
        let server = Server::start_with(claims.path(), |config| config.resolvers = vec![resolver]).await;
        let outside = Machine::outside().await;
        lead_outside(&outside, &PRIVATE[..1]).await;
        let socket = outside.socket().await;
        socket.bind((Ipv4Addr::UNSPECIFIED, 53).into()).unwrap();
        let names = socket.listen(8).unwrap();
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let (connected, accepted) = tokio::join!(guest.connect(TAP_IP, 53), names.accept());
        assert_eq!(connected.unwrap().peer_addr().unwrap().ip(), TAP_IP);
        accepted.unwrap();
        tokio::select! {
            result = guest.connect(resolver, 53) => panic!("it was reached directly: {result:?}"),
            result = guest.connect(TAP_IP, outside.port()) => panic!("another of its ports was reached: {result:?}"),
            () = until(&network, "two fenced packets", |denials| denials.fenced.saturating_sub(1)) => {}
        }
        network.delete().await.unwrap();
    });
}

#[test]
fn names_are_asked_of_a_policy_s_own_servers_behind_the_same_fence() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start_with(claims.path(), |config| config.resolvers = vec![PRIVATE[0]]).await;
        let outside = Machine::outside().await;
        lead_outside(&outside, &PRIVATE).await;
        let socket = outside.socket().await;
        socket.bind((Ipv4Addr::UNSPECIFIED, 53).into()).unwrap();
        let names = socket.listen(8).unwrap();
        let own = policy(r#"{"dns_servers":["203.0.113.2"]}"#);
        let mut network = server.create_with(&SandboxId::random(), &own).await;
        let guest = Machine::guest(&mut network).await;
        let (connected, accepted) = tokio::join!(guest.connect(TAP_IP, 53), names.accept());
        assert_eq!(connected.unwrap().peer_addr().unwrap().ip(), TAP_IP);
        assert_eq!(accepted.unwrap().0.local_addr().unwrap().ip(), WORLD);
        let mut seen = 0;
        for denied in PRIVATE[1..].iter().map(|private| format!(r#"{{"dns_servers":["{private}"]}}"#)).chain([
            r#"{"dns_servers":[]}"#.to_owned(),
            r#"{"dns_servers":["203.0.113.2"],"deny_out":["203.0.113.0/24"]}"#.to_owned(),
        ]) {
            network.apply(&policy(&denied)).await.unwrap();
            tokio::select! {
                result = guest.connect(TAP_IP, 53) => panic!("{denied}: {result:?}"),
                _ = names.accept() => panic!("{denied}: a server was reached"),
                () = until(&network, "a question without a server", |denials| denials.fenced.saturating_sub(seen)) => {}
            }
            seen = network.denials().await.unwrap().fenced;
        }
        network.apply(&NetworkPolicy::default()).await.unwrap();
        let (connected, accepted) = tokio::join!(guest.connect(TAP_IP, 53), names.accept());
        connected.unwrap();
        assert_eq!(accepted.unwrap().0.local_addr().unwrap().ip(), PRIVATE[0], "the host's again");
        network.delete().await.unwrap();
    });
}

#[test]
fn what_is_allowed_comes_to_the_proxy_and_nothing_goes_beside_it() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start(claims.path()).await;
        let outside = Machine::outside().await;
        lead_outside(&outside, &PRIVATE).await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let port = outside.port();
        let (mine, theirs) = tokio::join!(guest.connect(WORLD, port), outside.listener.accept());
        let (mut mine, _theirs) = (mine.unwrap(), theirs.unwrap());
        let through = |more: &str| policy(&format!(r#"{{"egress_proxy":{{"address":"203.0.113.9:1080"}}{more}}}"#));
        network.apply(&through("")).await.unwrap();
        mine.write_all(b"after").await.unwrap();
        let cut = tokio::time::timeout(SOON, mine.read_u8()).await.expect("what goes beside it is reset");
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(guest.connect(WORLD, port).await.is_err(), "nobody is there to take it");

        let sockets = network.egress_sockets().await.unwrap();
        let tunnels = tokio::net::TcpListener::from_std(sockets.tunnels.into()).unwrap();
        let named = tokio::net::TcpListener::from_std(sockets.connections.into()).unwrap();
        let meant = async |listener: &tokio::net::TcpListener, address: Ipv4Addr, port: u16| {
            let (connected, accepted) = tokio::join!(guest.connect(address, port), listener.accept());
            connected.unwrap();
            rustix::net::sockopt::ip_original_dst(&accepted.unwrap().0).unwrap()
        };
        let at = std::net::SocketAddrV4::new;
        assert_eq!(meant(&tunnels, WORLD, port).await, at(WORLD, port));
        network.apply(&through(r#","allow_out":["203.0.113.2"],"deny_out":["0.0.0.0/0"]"#)).await.unwrap();
        assert_eq!(meant(&tunnels, WORLD, port).await, at(WORLD, port));
        let names = r#","allow_out":["203.0.113.2","a.b"],"deny_out":["0.0.0.0/0"]"#;
        network.apply(&through(names)).await.unwrap();
        assert_eq!(meant(&tunnels, WORLD, 80).await, at(WORLD, 80));
        let other = Ipv4Addr::new(203, 0, 113, 3);
        assert_eq!(meant(&named, other, 80).await, at(other, 80), "it is to ask for a name");
        assert!(guest.connect(other, port).await.is_err());
        for denied in [r#","deny_out":["203.0.113.0/24"]"#, r#","allow_internet_access":false"#] {
            network.apply(&through(denied)).await.unwrap();
            assert!(guest.connect(WORLD, port).await.is_err(), "{denied}");
        }
        network.apply(&through(r#","allow_out":["0.0.0.0/0"]"#)).await.unwrap();
        let mut seen = network.denials().await.unwrap().fenced;
        for address in PRIVATE {
            tokio::select! {
                result = guest.connect(address, port) => panic!("{address}: {result:?}"),
                _ = tunnels.accept() => panic!("{address} came to the proxy"),
                () = until(&network, "a fenced packet", |denials| denials.fenced.saturating_sub(seen)) => {}
            }
            seen = network.denials().await.unwrap().fenced;
        }
        assert!(futures::FutureExt::now_or_never(outside.next_peer()).is_none(), "nothing went beside it");
        network.delete().await.unwrap();
    });
}

#[test]
fn a_guest_has_only_so_many_connections_and_so_many_new_ones() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start_with(claims.path(), |config| config.limits.connections = 5).await;
        let outside = Machine::outside().await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let mut open = Vec::new();
        for _ in 0..5 {
            let (connected, _) = tokio::join!(guest.connect(WORLD, outside.port()), outside.next_peer());
            open.push(connected.unwrap());
        }
        tokio::select! {
            result = guest.connect(WORLD, outside.port()) => panic!("one too many: {result:?}"),
            () = until(&network, "a connection too many", |denials| denials.connections) => {}
        }
        network.delete().await.unwrap();

        let slow = claim_dir();
        let server = Server::start_with(slow.path(), |config| config.limits.new_connections_per_second = 1).await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let many = futures::future::join_all((0..20).map(|_| guest.connect(WORLD, outside.port())));
        tokio::select! {
            results = many => panic!("twenty at once: {results:?}"),
            () = until(&network, "a new connection too many", |denials| denials.connections) => {}
        }
        network.delete().await.unwrap();
    });
}

#[test]
fn a_guest_sends_no_more_than_its_bandwidth() {
    on_a_host(|| async {
        let claims = claim_dir();
        let server = Server::start_with(claims.path(), |config| config.limits.megabytes_per_second = 1).await;
        let outside = Machine::outside().await;
        let (_, mut network) = server.create().await;
        let guest = Machine::guest(&mut network).await;
        let (mine, theirs) = tokio::join!(guest.connect(WORLD, outside.port()), outside.listener.accept());
        let (mut mine, (mut theirs, _)) = (mine.unwrap(), theirs.unwrap());
        let flood = async {
            let block = vec![0; 64 << 10];
            while mine.write_all(&block).await.is_ok() {}
        };
        let swallow = async { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await };
        tokio::select! {
            () = flood => panic!("the connection broke"),
            result = swallow => panic!("the connection ended: {result:?}"),
            () = until(&network, "a packet over the bandwidth", |denials| denials.bandwidth) => {}
        }
        network.delete().await.unwrap();
    });
}
