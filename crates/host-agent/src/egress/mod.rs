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
//! Both are one process of the sandbox's own, jailed as its monitor is, in the sandbox's network namespace with another uid and
//! no right to change anything there. It outlives the host agent. It has one policy for all of its life: another one is another
//! process, and the connections of the old end with it.

mod admitted;
mod dns;
mod head;
mod process;
mod proxy;
mod resolver;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::DomainPattern;
use serde::{Deserialize, Serialize};

pub(crate) use process::recorded;
pub use process::{Egress, EgressError};

use crate::net::is_fenced;
use admitted::Admitted;

/// The ports that it connects to.
pub(crate) const PORTS: [u16; 2] = [80, 443];

/// What the process is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    domains: Vec<String>,
    resolvers: Vec<Ipv4Addr>,
}

/// What it is given, in this order: opened where it is not.
pub(crate) struct Descriptors {
    /// Questions by UDP.
    pub questions: OwnedFd,
    /// Questions by TCP.
    pub question_streams: OwnedFd,
    /// Connections of the guest to ports 80 and 443 of anywhere.
    pub connections: OwnedFd,
    /// What was refused is counted in it.
    pub refused: OwnedFd,
}

/// What resolver and proxy share.
struct Gate {
    domains: Vec<DomainPattern>,
    resolvers: Vec<Ipv4Addr>,
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
        self.domains.iter().any(|domain| domain.matches(name))
    }

    /// Whether an address may be told to a guest: a name that leads to something private leads nowhere.
    fn is_public(address: Ipv4Addr) -> bool {
        !is_fenced(address)
    }
}

/// The whole life of the process, once it is jailed. Returns only when it cannot begin.
pub(crate) fn serve(task: Task, descriptors: Descriptors) -> io::Error {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error,
    };
    runtime.block_on(async {
        match begin(task, descriptors) {
            Ok(never) => never.await,
            Err(error) => error,
        }
    })
}

fn begin(task: Task, descriptors: Descriptors) -> io::Result<impl Future<Output = io::Error>> {
    let domains =
        task.domains.iter().map(|domain| domain.parse().map_err(io::Error::other)).collect::<Result<_, _>>()?;
    let refused = Refused { count: AtomicU64::new(0), file: descriptors.refused.into() };
    let gate = Arc::new(Gate { domains, resolvers: task.resolvers, admitted: Admitted::default(), refused });
    let questions = tokio::net::UdpSocket::from_std(descriptors.questions.into())?;
    let question_streams = tokio::net::TcpListener::from_std(descriptors.question_streams.into())?;
    let connections = tokio::net::TcpListener::from_std(descriptors.connections.into())?;
    Ok(async move {
        tokio::select! {
            error = resolver::answer_datagrams(&gate, questions) => error,
            error = resolver::answer_streams(&gate, question_streams) => error,
            error = proxy::pass_on(&gate, connections) => error,
        }
    })
}
