//! Claims about what a guest reaches. Whatever it sends beyond the host arrives at the test's own [`Target`]; each attack
//! goes with one that must arrive, so that nothing holds because nothing worked.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use client::NetworkPolicy;
use host_agent::net::{GUEST_IP, TAP_IP};

use super::Finding;
use super::stage::{NEIGHBOUR_PORT, Stage, answers, host_addresses};
use super::target::{HOST_SIDE, PORT, Target};

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    Private,
    Host,
    Neighbour,
    Spoofing,
    Ipv6,
    Outside,
    Off,
    Live,
    Names,
    Flood,
}

/// Public, as far as a fence can know: of ranges that are only for documents.
const WORLD: [Ipv4Addr; 8] = {
    let mut all = [Ipv4Addr::UNSPECIFIED; 8];
    let mut index = 0;
    while index < all.len() {
        all[index] = Ipv4Addr::new(198, 51, 100, 10 + index as u8);
        index += 1;
    }
    all
};
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x13);

/// One of each kind of address that no guest reaches, metadata services by their own.
const PRIVATE: [Ipv4Addr; 13] = [
    Ipv4Addr::new(10, 254, 254, 77),
    Ipv4Addr::new(100, 64, 254, 77),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(169, 254, 254, 77),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(172, 31, 254, 77),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(192, 168, 254, 77),
    Ipv4Addr::new(198, 18, 254, 77),
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::new(239, 255, 255, 250),
    Ipv4Addr::new(255, 255, 255, 255),
];

/// Makes the place where packets arrive that the fence lets through.
pub fn target(stage: &Stage) -> anyhow::Result<Target> {
    let machines = PRIVATE.iter().filter(|address| !address.is_multicast() && !address.is_broadcast());
    let addresses: Vec<_> = machines.chain(&WORLD).copied().collect();
    let apart = [stage.neighbour.host_ip, stage.neighbour.peer];
    Target::make(&stage.attacker.veth, &addresses, &apart)
}

/// Tries it.
pub async fn check(check: Check, stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    target.forget();
    match check {
        Check::Private => private(stage, target).await,
        Check::Host => host(stage).await,
        Check::Neighbour => neighbour(stage).await,
        Check::Spoofing => spoofing(stage, target).await,
        Check::Ipv6 => ipv6(stage, target).await,
        Check::Outside => outside(stage, target).await,
        Check::Off => with_default_after(stage, off(stage, target)).await,
        Check::Live => with_default_after(stage, live(stage)).await,
        Check::Names => with_default_after(stage, names(stage, target)).await,
        Check::Flood => flood(stage, target).await,
    }
}

/// What one policy's check leaves is none of the next one's business.
async fn with_default_after(
    stage: &Stage,
    check: impl Future<Output = anyhow::Result<Finding>>,
) -> anyhow::Result<Finding> {
    let finding = check.await;
    stage.allow(&NetworkPolicy::default()).await?;
    finding
}

fn finding(broken: Vec<String>, holds: impl FnOnce() -> String) -> Finding {
    match broken.is_empty() {
        true => Finding::Holds(holds()),
        false => Finding::Broken(broken.join(", ")),
    }
}

/// Probes addresses by every protocol; returns what was answered.
async fn probe(stage: &Stage, port: u16, addresses: &[Ipv4Addr]) -> anyhow::Result<BTreeSet<String>> {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let port = port.to_string();
    let arguments: Vec<_> = ["probe", &port, "3"].into_iter().chain(texts.iter().map(String::as_str)).collect();
    stage.attack(&arguments).await
}

async fn private(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let all: Vec<_> = PRIVATE.iter().chain(&WORLD[..1]).copied().collect();
    let mut answered = probe(stage, PORT, &all).await?;
    for protocol in ["tcp", "icmp"] {
        let line = format!("{protocol} {}", WORLD[0]);
        ensure!(answered.remove(&line), "a public address does not answer by {protocol}: what would a private one do?");
    }
    let arrived = PRIVATE.iter().map(|address| (address, target.packets_for(*address))).filter(|(_, count)| *count > 0);
    let arrived = arrived.map(|(address, count)| format!("{count} packets arrived at {address}"));
    let broken = answered.iter().map(|line| format!("{line} answered")).chain(arrived).collect();
    Ok(finding(broken, || format!("{} addresses, none reached; a public one was", PRIVATE.len())))
}

async fn host(stage: &Stage) -> anyhow::Result<Finding> {
    let streams = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen on the host")?;
    let port = streams.local_addr().context("listen on the host")?.port();
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).context("listen on the host")?;
    streams.set_nonblocking(true).context("listen on the host")?;
    datagrams.set_nonblocking(true).context("listen on the host")?;
    ensure!(answers(HOST_SIDE, port).await, "the listener on the host does not answer the host itself");

    let attacker = &stage.attacker;
    let addresses = [host_addresses(attacker).await?, vec![TAP_IP, attacker.peer, attacker.host_ip]].concat();
    ensure!(addresses.contains(&HOST_SIDE), "the host does not know its own address");
    let mut broken: Vec<_> = Vec::new();
    for port in [port, api_port(stage)?] {
        let answered = probe(stage, port, &addresses).await?;
        broken.extend(answered.iter().map(|line| format!("{line} answered at port {port}")));
    }
    let theirs = [attacker.peer, attacker.host_ip, GUEST_IP];
    while let Ok((_, whence)) = streams.accept() {
        broken.extend(theirs.iter().filter(|ip| whence.ip() == **ip).map(|ip| format!("{ip} reached the host by TCP")));
    }
    while let Ok((_, whence)) = datagrams.recv_from(&mut [0; 16]) {
        broken.extend(theirs.iter().filter(|ip| whence.ip() == **ip).map(|ip| format!("{ip} reached the host by UDP")));
    }
    Ok(finding(broken, || format!("{} addresses, none reached; the host itself does", addresses.len())))
}

fn api_port(stage: &Stage) -> anyhow::Result<u16> {
    let url: http::Uri = stage.client.base_url().parse().context("the server's address is a URL")?;
    Ok(url.port_u16().unwrap_or(80))
}

async fn neighbour(stage: &Stage) -> anyhow::Result<Finding> {
    let neighbour = &stage.neighbour;
    ensure!(answers(neighbour.host_ip, NEIGHBOUR_PORT).await, "the neighbour does not answer the host");
    let answered = probe(stage, NEIGHBOUR_PORT, &[neighbour.host_ip, neighbour.peer]).await?;
    let broken = answered.iter().map(|line| format!("{line} answered")).collect();
    Ok(finding(broken, || "it does not answer; it answers the host".to_owned()))
}

/// Waits until something arrived.
async fn arrives(target: &Target, address: Ipv4Addr) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while target.packets_for(address) == 0 {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Sends raw frames of these kinds and one of the guest's own, which must arrive.
async fn send_frames(stage: &Stage, target: &Target, kinds: &[(&str, String)]) -> anyhow::Result<()> {
    let own = WORLD[7].to_string();
    let pairs = kinds.iter().flat_map(|(kind, to)| [*kind, to]);
    let arguments: Vec<_> = ["frames", "own", &own].into_iter().chain(pairs).collect();
    stage.attack(&arguments).await?;
    ensure!(arrives(target, WORLD[7]).await, "not even a frame of its own arrives");
    Ok(())
}

async fn spoofing(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let kinds = ["address", "neighbour", "mac", "vlan"];
    let frames: Vec<_> = kinds.iter().zip(&WORLD).map(|(kind, to)| (*kind, to.to_string())).collect();
    let (all, before) = ([frames, vec![("arp", TAP_IP.to_string())]].concat(), stage.denials("spoofed").await?);
    send_frames(stage, target, &all).await?;
    let dropped = stage.denials("spoofed").await? - before;
    let arrived = kinds.iter().zip(&WORLD).filter(|(_, to)| target.packets_for(**to) > 0);
    let mut broken: Vec<_> = arrived.map(|(kind, _)| format!("a frame with a foreign {kind} arrived")).collect();
    // Three of each: address, neighbour, MAC, ARP; those with a VLAN are no IPv4.
    if dropped < 12 {
        broken.push(format!("of 12 forged frames {dropped} were dropped"));
    }
    Ok(finding(broken, || format!("{dropped} forged frames were dropped, those of its own arrived")))
}

async fn ipv6(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let before = stage.denials("not_ipv4").await?;
    send_frames(stage, target, &[("ipv6", WORLD_V6.to_string())]).await?;
    let dropped = stage.denials("not_ipv4").await? - before;
    let mut broken = Vec::new();
    if target.packets_for(WORLD_V6) > 0 {
        broken.push("a packet of IPv6 arrived".to_owned());
    }
    if dropped < 3 {
        broken.push(format!("of 3 frames of IPv6 {dropped} were dropped"));
    }
    Ok(finding(broken, || format!("{dropped} frames of IPv6 were dropped, one of IPv4 arrived")))
}

async fn outside(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let neighbour = stage.neighbour.host_ip;
    ensure!(answers(neighbour, NEIGHBOUR_PORT).await, "the neighbour does not answer the host");
    let broken = if target.reaches(neighbour, NEIGHBOUR_PORT)? {
        vec![format!("{neighbour} answered a machine outside")]
    } else {
        Vec::new()
    };
    Ok(finding(broken, || "it does not answer; it answers the host".to_owned()))
}

/// What the attacker reaches of an address, as told by both ends.
async fn reached(stage: &Stage, target: &Target, address: Ipv4Addr) -> anyhow::Result<Vec<String>> {
    let answered = probe(stage, PORT, &[address]).await?;
    let arrived = target.packets_for(address);
    let arrived = (arrived > 0).then(|| format!("{arrived} packets arrived at {address}"));
    Ok(answered.iter().map(|line| format!("{line} answered")).chain(arrived).collect())
}

fn no_internet() -> NetworkPolicy {
    NetworkPolicy { allow_internet_access: Some(false), ..NetworkPolicy::default() }
}

async fn off(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    ensure!(!reached(stage, target, WORLD[1]).await?.is_empty(), "it reaches nothing with internet access either");
    stage.allow(&no_internet()).await?;
    target.forget();
    let mut broken = reached(stage, target, WORLD[1]).await?;
    let answered = stage.attack(&["ask", &TAP_IP.to_string(), "name.invalid"]).await?;
    broken.extend(answered.iter().map(|line| format!("a name server answered with {line}")));
    Ok(finding(broken, || format!("{} is reached before and not after", WORLD[1])))
}

/// Where the attacker writes what becomes of its connection.
const HELD: &str = "/tmp/held";

async fn live(stage: &Stage) -> anyhow::Result<Finding> {
    stage.attack_in_background(&["hold", &WORLD[2].to_string(), HELD]).await?;
    ensure!(becomes(stage, "open").await?, "it cannot connect at all");
    stage.allow(&no_internet()).await?;
    let broken = match becomes(stage, "cut").await? {
        true => Vec::new(),
        false => vec!["the connection was not cut".to_owned()],
    };
    Ok(finding(broken, || "an open connection was cut".to_owned()))
}

async fn becomes(stage: &Stage, state: &str) -> anyhow::Result<bool> {
    let script = format!(
        "i=0; while [ $i -lt 50 ] && ! grep -qx {state} {HELD} 2> /dev/null; do sleep 0.2; i=$((i+1)); done; \
                          cat {HELD} 2> /dev/null || true"
    );
    Ok(stage.shell(&stage.attacker, &script, &[], Duration::from_secs(40)).await? == state)
}

async fn names(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let world = WORLD[3].to_string();
    ensure!(!reached(stage, target, WORLD[3]).await?.is_empty(), "it reaches nothing without a policy either");
    let allowed = "allowed.invalid".to_owned();
    stage.allow(&NetworkPolicy { allow_out: vec![allowed.clone()], ..no_internet() }).await?;
    target.forget();
    let mut broken = Vec::new();
    let refused = BTreeSet::from(["code 5".to_owned()]);
    let told = stage.attack(&["ask", &TAP_IP.to_string(), "secret.other.invalid"]).await?;
    if told != refused {
        broken.push(format!("the question for another name was answered with {told:?}"));
    }
    let told = stage.attack(&["ask", &world, &allowed]).await?;
    broken.extend(told.iter().map(|line| format!("another resolver answered with {line}")));
    for port in ["80", "443", "853"] {
        let told = stage.attack(&["request", &world, port, &allowed, "GET /"]).await?;
        broken.extend(told.iter().map(|line| format!("{world} answered at port {port} with {line}")));
    }
    // QUIC, and whatever else has that port.
    probe(stage, 443, &[WORLD[3]]).await?;
    let arrived = target.packets_for(WORLD[3]);
    if arrived > 0 {
        broken.push(format!("{arrived} packets arrived at {world}"));
    }
    Ok(finding(broken, || "other names are refused, and nothing arrives at an address outside".to_owned()))
}

async fn flood(stage: &Stage, target: &Target) -> anyhow::Result<Finding> {
    let before = stage.denials("connections").await?;
    stage.attack(&["syns", &WORLD[4].to_string(), "6000"]).await?;
    ensure!(target.packets_for(WORLD[4]) > 0, "not one connection was begun");
    let dropped = stage.denials("connections").await? - before;
    let broken = if dropped == 0 { vec!["every connection was let through".to_owned()] } else { Vec::new() };
    Ok(finding(broken, || format!("{dropped} packets of 6000 connections were dropped")))
}
