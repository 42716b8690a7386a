//! The sockets of a sandbox's resolver and proxy, opened in the sandbox's namespace: the process that gets them could not open
//! them itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::SandboxNetwork;
use super::address::TAP_IP;
use super::firewall::{PROXY_PORT, TUNNEL_PORT};
use super::namespace::{self, NamespaceError};

/// What a resolver and proxy work with.
#[derive(Debug)]
pub struct EgressSockets {
    /// Where they make connections.
    pub namespace: OwnedFd,
    /// Questions by UDP.
    pub questions: OwnedFd,
    /// Questions by TCP.
    pub question_streams: OwnedFd,
    /// Connections that the guest meant for others.
    pub connections: OwnedFd,
    /// The same, where they are allowed by their address and go through the proxy of the sandbox's owner.
    pub tunnels: OwnedFd,
}

/// Why there are no such sockets.
#[derive(Debug, thiserror::Error)]
pub enum EgressSocketError {
    /// The sandbox's namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A socket could not be opened.
    #[error("listening at {0} in the sandbox's network namespace")]
    Listen(SocketAddrV4, #[source] io::Error),
}

impl SandboxNetwork {
    /// Opens them. It can be done again once the process that had them is gone.
    pub async fn egress_sockets(&self) -> Result<EgressSockets, EgressSocketError> {
        namespace::inside(self.namespace.clone(), open).await
    }

    /// The name servers that may be asked.
    pub fn resolvers(&self) -> Vec<Ipv4Addr> {
        self.installation.resolvers.clone()
    }
}

fn open() -> Result<EgressSockets, EgressSocketError> {
    let [names, proxy, tunnel] = [53, PROXY_PORT, TUNNEL_PORT].map(|port| SocketAddrV4::new(TAP_IP, port));
    let failed = |address| move |error| EgressSocketError::Listen(address, error);
    let questions = UdpSocket::bind(names).map_err(failed(names))?;
    let question_streams = TcpListener::bind(names).map_err(failed(names))?;
    let connections = TcpListener::bind(proxy).map_err(failed(proxy))?;
    let tunnels = TcpListener::bind(tunnel).map_err(failed(tunnel))?;
    questions.set_nonblocking(true).map_err(failed(names))?;
    question_streams.set_nonblocking(true).map_err(failed(names))?;
    connections.set_nonblocking(true).map_err(failed(proxy))?;
    tunnels.set_nonblocking(true).map_err(failed(tunnel))?;
    Ok(EgressSockets {
        namespace: namespace::current().map_err(NamespaceError::Open)?,
        questions: questions.into(),
        question_streams: question_streams.into(),
        connections: connections.into(),
        tunnels: tunnels.into(),
    })
}
