//! Where every packet of the attacker goes that the fence lets through: a namespace of the test's own, whatever address
//! the packet is for. The host routes what comes from the attacker's sandbox there and nothing else, so that nothing of
//! the real network is probed, and the host's own ways are untouched. All of it ends with this, or with the process.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The target's own address, of a range that is only for documents: public, as far as a fence can know.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 18);

/// The host's address on the way there, an address of this machine like any other.
pub const HOST_SIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 17);

/// The port at which it answers by TCP.
pub const PORT: u16 = 80;

/// Connections that it holds open.
const MOST_OPEN: usize = 128;

/// Ethernet frames of every kind, in the byte order of the wire.
const EVERY_KIND: u32 = 0x0003_u16.to_be() as u32;

/// The namespace with its listeners, and the host's way to it.
#[derive(Debug)]
pub struct Target {
    seen: Arc<Mutex<Seen>>,
    /// Lives in the namespace, which lives as long; ends when its input does.
    keeper: Child,
    namespace: Arc<OwnedFd>,
    link: String,
    /// Of the host's routing, for packets of one sandbox alone.
    table: String,
    /// The host's end of that sandbox's wire.
    veth: String,
    ears: Vec<JoinHandle<()>>,
    /// While somebody holds it, the ears listen.
    running: Arc<()>,
}

/// How many packets arrived, by destination.
#[derive(Debug, Default)]
struct Seen(BTreeMap<IpAddr, u64>);

impl Target {
    /// Makes it, for packets of the sandbox behind `veth`. Those for `apart` go on as they would without the test.
    pub fn make(veth: &str, addresses: &[Ipv4Addr], apart: &[Ipv4Addr]) -> anyhow::Result<Self> {
        // Numbers of the process: two tests on one machine do not meet.
        let own = std::process::id();
        let (link, table) = (format!("spt{own}"), (1_000_000 + own).to_string());
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made && exec cat > /dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare, of Debian's util-linux")?;
        let namespace = match namespace_of(&mut keeper) {
            Ok(namespace) => Arc::new(namespace),
            Err(error) => {
                let _ = (keeper.kill(), keeper.wait());
                return Err(error);
            }
        };
        let (ears, running, seen) = Default::default();
        let mut target = Self { seen, keeper, namespace, link, table, veth: veth.to_owned(), ears, running };
        target.lead(addresses, apart)?;
        target.listen()?;
        Ok(target)
    }

    fn lead(&self, addresses: &[Ipv4Addr], apart: &[Ipv4Addr]) -> anyhow::Result<()> {
        let Self { link, table, veth, keeper, .. } = self;
        let there = keeper.id().to_string();
        let host = format!(
            "link add {link} type veth peer name eth0 netns {there}\naddress add {HOST_SIDE}/30 dev {link}\n\
             link set {link} up\n"
        );
        batch(&[], &host)?;
        loosen(link)?;
        let local: String = addresses.iter().map(|address| format!("address add {address}/32 dev lo\n")).collect();
        let inside = format!(
            "link set lo up\naddress add {OWN}/30 dev eth0\nlink set eth0 up\nroute add default via {HOST_SIDE}\n{local}"
        );
        batch(&["nsenter", "--net", "--target", &there], &inside)?;
        let throw: String =
            apart.iter().map(|address| format!("route add throw {address}/32 table {table}\n")).collect();
        batch(
            &[],
            &format!(
                "{throw}route add default via {OWN} dev {link} table {table}\nrule add iif {veth} lookup {table}\n"
            ),
        )
    }

    /// Opens its ears, each on a thread that is in the namespace.
    fn listen(&mut self) -> anyhow::Result<()> {
        let kind = NonZeroU32::new(EVERY_KIND).map(Protocol::from_raw);
        let packets = self.inside(move || {
            let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, kind)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(100)))?;
            Ok(socket)
        })?;
        let (seen, running) = (self.seen.clone(), Arc::downgrade(&self.running));
        self.ears.push(std::thread::spawn(move || {
            let mut packet = [0; 128];
            while running.strong_count() > 0 {
                if let Ok((length, _)) = rustix::net::recv(&packets, &mut packet[..], RecvFlags::empty()) {
                    lock(&seen).note(&packet[..length]);
                }
            }
        }));
        let listener = self.inside(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            set_socket_timeout(&listener, Timeout::Recv, Some(Duration::from_millis(100)))?;
            Ok(listener)
        })?;
        let running = Arc::downgrade(&self.running);
        self.ears.push(std::thread::spawn(move || {
            // Held open, a flood of them apart: what becomes of a connection is the fence's doing, not this end's.
            let mut open = Vec::new();
            while running.strong_count() > 0 {
                open.extend(listener.accept());
                if open.len() > MOST_OPEN {
                    open.clear();
                }
            }
        }));
        Ok(())
    }

    /// Whether a machine in the world reaches an address of the host's or beyond it: from the namespace, outwards.
    pub fn reaches(&self, address: Ipv4Addr, port: u16) -> anyhow::Result<bool> {
        let limit = Duration::from_secs(2);
        self.inside(move || Ok(TcpStream::connect_timeout(&(address, port).into(), limit).is_ok()))
    }

    /// How many packets arrived for an address.
    pub fn packets_for(&self, address: impl Into<IpAddr>) -> u64 {
        lock(&self.seen).0.get(&address.into()).copied().unwrap_or(0)
    }

    /// Forgets what arrived.
    pub fn forget(&self) {
        *lock(&self.seen) = Seen::default();
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> std::io::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = self.namespace.clone();
        let body = move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&*namespace), Some(LinkNameSpaceType::Network))?;
            work()
        };
        let result = std::thread::scope(|scope| scope.spawn(body).join());
        result.map_err(|_| anyhow::anyhow!("a thread in the target's namespace panicked"))?.context("in the target")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.running = Arc::default();
        for ear in self.ears.drain(..) {
            let _ = ear.join();
        }
        let _ = batch(&[], &format!("rule del iif {} lookup {}\n", self.veth, self.table));
        let _ = batch(&[], &format!("route flush table {}\n", self.table));
        let _ = batch(&[], &format!("link del {}\n", self.link));
        let _ = (self.keeper.kill(), self.keeper.wait());
    }
}

impl Seen {
    fn note(&mut self, packet: &[u8]) {
        let to = match packet.first().map(|byte| byte >> 4) {
            Some(4) => packet.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from),
            Some(6) => packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from),
            _ => None,
        };
        if let Some(to) = to {
            *self.0.entry(to).or_default() += 1;
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network namespace of a process that makes its own and then says so.
fn namespace_of(process: &mut Child) -> anyhow::Result<OwnedFd> {
    let said = process.stdout.take().context("unshare says nothing")?;
    let length = BufReader::new(said).read_line(&mut String::new()).context("wait for a network namespace")?;
    ensure!(length > 0, "unshare made no network namespace: is this root?");
    let path = format!("/proc/{}/ns/net", process.id());
    Ok(fs::File::open(&path).with_context(|| format!("open {path}"))?.into())
}

/// Lets answers in from whatever address, if the machine looks at where they come from.
fn loosen(link: &str) -> anyhow::Result<()> {
    let of = |name: &str| format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    let all = fs::read_to_string(of("all")).context("read rp_filter")?;
    let value = if all.trim() == "0" { "0" } else { "2" };
    fs::write(of(link), value).context("write rp_filter")
}

/// Runs `ip` with many commands at once, by way of another program where one is given.
fn batch(by: &[&str], commands: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = by.iter().chain(&["ip", "-batch", "-"]).copied().collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start ip, of Debian's iproute2")?;
    if let Some(mut input) = child.stdin.take() {
        std::io::Write::write_all(&mut input, commands.as_bytes()).context("write to ip")?;
    }
    let output = child.wait_with_output().context("wait for ip")?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_noted_by_where_they_go() {
        let mut seen = Seen::default();
        let mut packet = [0; 40];
        (packet[0], packet[19]) = (0x45, 7);
        seen.note(&packet[..20]);
        seen.note(&packet[..20]);
        packet[0] = 0x60;
        seen.note(&packet);
        // Too short, no IP, nothing.
        for other in [&packet[..39], &[0x45; 19], &[0x00, 0x01], &[]] {
            seen.note(other);
        }
        let expected = [(Ipv4Addr::new(0, 0, 0, 7).into(), 2), (std::net::Ipv6Addr::UNSPECIFIED.into(), 1)];
        assert_eq!(seen.0, BTreeMap::from(expected));
    }
}
