//! A sandbox's way to names: a resolver that answers only names that its policy allows, and a proxy that connects only to
//! addresses which that resolver answered, for connections that ask for one of those names. Nothing else leaves a sandbox
//! whose policy names domains.
//!
//! ```text
//!  guest ── name? ─────────▶ resolver ── name? (allowed ones only) ──▶ name servers
//!        ◀─ addresses ──────┤ remembers them
//!        ── 80, 443 ───────▶ proxy: is the address one of them, and does the connection ask for that name?
//!                                  └──────────────────────────────────▶ the server
//! ```
//!
//! Where requests to some hosts get headers, connections to ports 80 and 443 are taken by it also where their addresses are
//! allowed, and those that ask for such a host are read, the TLS of others is not.
//!
//! Where the policy has a proxy of its owner's, all connections that it allows go out through that: those by name as above,
//! and those to addresses without a look at what they say.
//!
//! All are one process of the sandbox's own, jailed as its monitor is, in the sandbox's network namespace with another uid and
//! no right to change anything there. It outlives the host agent. It has one policy for all of its life: another one is another
//! process, and the connections of the old end with it.

mod admitted;
mod authority;
mod dns;
mod head;
mod process;
mod proxy;
mod requests;
mod resolver;
mod socks;
mod upstream;

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::NetworkPolicy;
use serde::{Deserialize, Serialize};

use tokio::sync::Semaphore;

pub use authority::{Authority, AuthorityError};
pub(crate) use process::recorded;
pub use process::{Egress, EgressError};

use crate::net::is_fenced;
use admitted::Admitted;
use requests::Requests;
use upstream::Upstream;

/// The ports of servers with names.
const PORTS: [u16; 2] = [80, 443];

/// Connections at once; further ones wait. Each is two descriptors.
const AT_ONCE: usize = 200;

/// Whether a policy needs such a process.
pub(crate) fn is_needed(policy: &NetworkPolicy) -> bool {
    policy.domains().next().is_some() || policy.proxy().is_some() || !policy.headers().is_empty()
}

/// What the process does.
#[derive(Serialize, Deserialize)]
struct Task {
    policy: NetworkPolicy,
    /// What names are asked of.
    resolvers: Vec<Ipv4Addr>,
    /// The host's own, whichever the sandbox has.
    host_resolvers: Vec<Ipv4Addr>,
}

impl Task {
    /// The ports that it connects to.
    fn ports(&self) -> Vec<u16> {
        match self.policy.proxy() {
            Some(proxy) => vec![proxy.address().port()],
            None => PORTS.to_vec(),
        }
    }
}

/// What it is told.
#[derive(Serialize, Deserialize)]
struct Told {
    task: Task,
    /// By what it vouches for hosts whose requests get headers, where any do.
    credential: Option<authority::Credential>,
}

/// What it is given, in this order: opened where it is not.
pub(crate) struct Descriptors {
    /// What it is told, in memory.
    pub task: OwnedFd,
    /// Questions by UDP.
    pub questions: OwnedFd,
    /// Questions by TCP.
    pub question_streams: OwnedFd,
    /// Connections of the guest to ports 80 and 443 of anywhere.
    pub connections: OwnedFd,
    /// Connections of the guest to addresses that it may reach, which go through the proxy of its owner.
    pub tunnels: OwnedFd,
    /// The authorities that the machine believes, in PEM.
    pub trusted: OwnedFd,
    /// What was refused is counted in it.
    pub refused: OwnedFd,
}

/// What resolver and proxy share.
struct Gate {
    policy: NetworkPolicy,
    resolvers: Vec<Ipv4Addr>,
    /// None where connections go out directly.
    upstream: Option<Upstream>,
    /// None where no requests get headers.
    requests: Option<Requests>,
    room: Arc<Semaphore>,
    admitted: Admitted,
    refused: Refused,
}

/// How often a name was refused, or a connection that asked for the wrong one. Read by the host agent.
struct Refused {
    count: AtomicU64,
    file: File,
}

impl Refused {
    fn add(&self) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        // What cannot be counted is refused all the same.
        let _ = self.file.write_all_at(&count.to_le_bytes(), 0);
    }
}

impl Gate {
    fn allows(&self, name: &str) -> bool {
        self.policy.domains().any(|domain| domain.matches(name))
    }

    /// Whether an address may be told to a guest: a name that leads to something private leads nowhere.
    fn is_public(address: Ipv4Addr) -> bool {
        !is_fenced(address)
    }
}

/// The whole life of the process, once it is jailed. Returns only when it cannot begin.
pub(crate) fn serve(descriptors: Descriptors) -> io::Error {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error,
    };
    runtime.block_on(async {
        match begin(descriptors) {
            Ok(never) => never.await,
            Err(error) => error,
        }
    })
}

fn begin(descriptors: Descriptors) -> io::Result<impl Future<Output = io::Error>> {
    let Told { task, credential } = serde_json::from_slice(&read(descriptors.task)?)?;
    let Task { policy, resolvers, host_resolvers } = task;
    let trusted = read(descriptors.trusted)?;
    let upstream = policy.proxy().map(|proxy| Upstream::new(proxy.clone(), host_resolvers, &trusted)).transpose()?;
    let requests = credential.map(|credential| Requests::new(policy.headers(), &credential, &trusted)).transpose()?;
    let refused = Refused { count: AtomicU64::new(0), file: descriptors.refused.into() };
    let (room, admitted) = (Arc::new(Semaphore::new(AT_ONCE)), Admitted::default());
    let gate = Arc::new(Gate { policy, resolvers, upstream, requests, room, admitted, refused });
    let questions = tokio::net::UdpSocket::from_std(descriptors.questions.into())?;
    let question_streams = tokio::net::TcpListener::from_std(descriptors.question_streams.into())?;
    let connections = tokio::net::TcpListener::from_std(descriptors.connections.into())?;
    let tunnels = tokio::net::TcpListener::from_std(descriptors.tunnels.into())?;
    Ok(async move {
        tokio::select! {
            error = resolver::answer_datagrams(&gate, questions) => error,
            error = resolver::answer_streams(&gate, question_streams) => error,
            error = proxy::pass_on(&gate, connections, Gate::by_name) => error,
            error = proxy::pass_on(&gate, tunnels, Gate::by_address) => error,
        }
    })
}

/// All of a file.
fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::from(file).read_to_end(&mut content)?;
    Ok(content)
}
