//! What the tests of this module stand on: a host of their own and a guest at the other end of a tap.
//!
//! Each test runs on a thread whose network namespace plays the host, so that its links, routes and rules are all that
//! there is and nothing of the real host is touched. Its `/run`, where namespaces have their names, is the test's own too.

use std::future::Future;
use std::io::{self, PipeReader, PipeWriter};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener as BlockingListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use model::{InstanceId, NetworkPolicy, SandboxId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::super::connect::SocketThread;
use super::super::links::Links;
use super::super::namespace::{self, NamespaceError};
use super::super::{GUEST_IP, GUEST_MAC, Network, NetworkConfig, SandboxNetwork, TAP_IP, names, tap};

pub const SOON: Duration = Duration::from_secs(10);

/// Runs a test on a host of its own, as it is after a machine's start.
pub fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let body = || {
        namespace::leave_for_new().expect("tests run as root");
        leave_for_an_empty_run();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Gives the calling thread, and what it starts, an empty `/run` of their own.
fn leave_for_an_empty_run() {
    namespace::leave_for_own_mounts().unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
}

/// An installation on the test's host; its named namespaces go with it.
pub struct Server {
    pub config: NetworkConfig,
    pub network: Network,
    _data_dir: tempfile::TempDir,
}

impl Server {
    pub async fn start(claim_dir: &Path) -> Self {
        Self::start_with(claim_dir, |_| {}).await
    }

    pub async fn start_with(claim_dir: &Path, change: impl FnOnce(&mut NetworkConfig)) -> Self {
        let (instance, data_dir) = (InstanceId::random(), tempfile::tempdir().unwrap());
        std::fs::write(data_dir.path().join("instance-id"), instance.as_str()).unwrap();
        let mut config = NetworkConfig::new(instance, data_dir.path());
        config.claim_dir = claim_dir.to_owned();
        change(&mut config);
        let network = Network::open(config.clone()).await.unwrap();
        Self { config, network, _data_dir: data_dir }
    }

    pub async fn create(&self) -> (SandboxId, SandboxNetwork) {
        let sandbox = SandboxId::random();
        let network = self.create_with(&sandbox, &NetworkPolicy::default()).await;
        (sandbox, network)
    }

    /// All of a network.
    pub async fn create_with(&self, sandbox: &SandboxId, policy: &NetworkPolicy) -> SandboxNetwork {
        let mut network = self.network.create(sandbox, policy).await.unwrap();
        network.ready().await.unwrap();
        network
    }

    /// Everything on the test's host that networks consist of.
    pub fn inventory(&self) -> Vec<String> {
        let mut found = lines("ip", &["-o", "link"]);
        found.extend(lines("ip", &["-4", "-o", "address"]));
        found.extend(lines("ip", &["-4", "route", "show", "table", "all"]));
        found.extend(lines("nft", &["list", "tables"]));
        let prefix = names::namespace_prefix(&self.config.instance);
        found.extend(lines("ip", &["netns"]).into_iter().filter(|name| name.starts_with(&prefix)));
        let claims = std::fs::read_dir(&self.config.claim_dir).unwrap();
        found.extend(claims.map(|claim| format!("claim {}", claim.unwrap().file_name().display())));
        found.sort();
        found
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let prefix = names::namespace_prefix(&self.config.instance);
        for name in namespace::names().unwrap_or_default().iter().filter(|name| name.starts_with(&prefix)) {
            let _ = namespace::remove(name);
        }
    }
}

/// Waits until `condition` holds.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, poll).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

/// How many packets the rules in a listing have dropped.
pub fn dropped(rules: &[String]) -> u64 {
    let drops = rules.iter().filter(|rule| rule.ends_with("drop"));
    let counts = drops.filter_map(|rule| rule.split_once("packets ")?.1.split(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

/// The lines that a program prints.
pub fn lines(program: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A machine at the end of a wire: a namespace with `eth0` and a TCP server.
pub struct Machine {
    pub listener: TcpListener,
    pub links: Links,
    namespace: Arc<OwnedFd>,
    sockets: SocketThread,
    /// While this is open, frames pass.
    wire: Option<PipeWriter>,
}

impl Machine {
    /// A guest at the other end of a sandbox's tap, in the place of a VMM: frames are copied between two taps.
    pub async fn guest(network: &mut SandboxNetwork) -> Self {
        let theirs = network.take_tap().expect("nobody took the tap");
        let (mut machine, ours) = Self::start(|| {
            let ours = tap::open("eth0").unwrap();
            let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
            lines("ip", &["link", "set", "eth0", "address", &mac]);
            Some(ours)
        })
        .await;
        machine.links.bring_up("eth0").await.unwrap();
        machine.links.add_address("eth0", GUEST_IP, 30).await.unwrap();
        machine.links.add_default_route(TAP_IP).await.unwrap();
        let (stop, running) = std::io::pipe().unwrap();
        std::thread::spawn(move || copy_frames(&theirs, &ours.unwrap(), &stop));
        machine.wire = Some(running);
        machine
    }

    /// A machine in the world outside: 203.0.113.2, where the host is 203.0.113.1 and nothing is routed back.
    pub async fn outside() -> Self {
        let (machine, _) = Self::start(|| None).await;
        let host = Links::open().unwrap();
        host.add_veth("uplink", "eth0", machine.namespace.as_fd()).await.unwrap();
        host.add_address("uplink", Ipv4Addr::new(203, 0, 113, 1), 24).await.unwrap();
        machine.links.bring_up("eth0").await.unwrap();
        machine.links.add_address("eth0", Ipv4Addr::new(203, 0, 113, 2), 24).await.unwrap();
        machine
    }

    async fn start(open: impl FnOnce() -> Option<OwnedFd> + Send + 'static) -> (Self, Option<OwnedFd>) {
        let work = move || -> Result<_, NamespaceError> {
            let tap = open();
            let listener = BlockingListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            Ok((tap, listener, Links::open().unwrap(), namespace::current().unwrap()))
        };
        let (tap, listener, links, namespace) = namespace::in_new(work).await.unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let sockets = SocketThread::start().unwrap();
        (Self { listener, links, namespace: namespace.into(), sockets, wire: None }, tap)
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// A socket of this machine.
    pub async fn socket(&self) -> TcpSocket {
        self.sockets.open(self.namespace.clone()).await.unwrap()
    }

    /// A connection from this machine.
    pub async fn connect(&self, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        let connecting = self.socket().await.connect(SocketAddrV4::new(address, port).into());
        tokio::time::timeout(SOON, connecting).await?
    }

    /// Who connects next.
    pub async fn next_peer(&self) -> std::net::IpAddr {
        tokio::time::timeout(SOON, self.listener.accept()).await.expect("somebody connects").unwrap().1.ip()
    }
}

/// Copies frames, each with its virtio-net header, in both directions until the other end of `stop` is dropped.
fn copy_frames(one: &OwnedFd, two: &OwnedFd, stop: &PipeReader) {
    let mut frame = vec![0; 70_000];
    loop {
        let mut ready =
            [PollFd::new(one, PollFlags::IN), PollFd::new(two, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        poll(&mut ready, None).unwrap();
        if !ready[2].revents().is_empty() {
            return;
        }
        for (from, to) in [(one, two), (two, one)] {
            match rustix::io::read(from, &mut frame[..]) {
                Ok(length) => assert_eq!(rustix::io::write(to, &frame[..length]).unwrap(), length),
                Err(error) => assert_eq!(error, rustix::io::Errno::AGAIN),
            }
        }
    }
}
