//! The proxy: takes the guest's connections to ports 80 and 443 of anywhere, and makes those whose address was answered for the
//! name that they ask for. Of those that come to it because their address is allowed it makes each. Requests that get headers
//! it leaves to [`super::requests`].

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::head::{self, Head};
use super::requests::{Destined, Requests, again};
use super::resolver::look_up;
use super::socks::Destination;
use super::upstream::Tunnel;
use super::{Gate, PORTS};
use crate::net::is_fenced;

/// How long a guest may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// The most that it may say until then.
const LONGEST_HEAD: usize = 32 << 10;

/// How long a server may take to be connected to.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How long the proxy of a sandbox's owner may take until it has connected.
const UPSTREAM_PATIENCE: Duration = Duration::from_secs(20);

/// Passes connections on in one way until that is impossible.
pub(super) async fn pass_on<F>(
    gate: &Arc<Gate>,
    listener: TcpListener,
    serve: impl Fn(Arc<Gate>, TcpStream) -> F,
) -> io::Error
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let Ok(permit) = gate.room.clone().acquire_owned().await else { return io::ErrorKind::BrokenPipe.into() };
        let Ok((stream, _)) = listener.accept().await else {
            // Too many descriptors, for a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let served = serve(gate.clone(), stream);
        tokio::spawn(async move {
            // Whatever went wrong, the guest sees its connection end.
            let _ = served.await;
            drop(permit);
        });
    }
}

impl Gate {
    /// A connection that is to ask for a name which is allowed.
    pub(super) async fn by_name(self: Arc<Self>, mut guest: TcpStream) -> io::Result<()> {
        let server = rustix::net::sockopt::ip_original_dst(&guest)?;
        let mut seen = Vec::new();
        let named = timeout(HEAD_PATIENCE, read_head(&mut guest, &mut seen, server)).await;
        let Ok(Ok((name, forward))) = named else {
            self.refused.add();
            return Ok(());
        };
        if !self.allows(&name) || !self.admitted.has(&name, *server.ip()) {
            self.refused.add();
            return Ok(());
        }
        let destination = match &self.upstream {
            None => Destination::Address(server),
            // What the name stands for is found there.
            Some(_) => Destination::Name(name.clone(), server.port()),
        };
        let mut way = self.way(&destination).await?;
        match self.destined(&name) {
            Some((requests, host)) => give_headers(requests, host, again(seen, guest), server, way).await,
            None => {
                way.write_all(&forward).await?;
                way.flush().await?;
                copy_bidirectional(&mut guest, &mut way).await.map(drop)
            }
        }
    }

    /// A connection to an address that is allowed.
    pub(super) async fn by_address(self: Arc<Self>, mut guest: TcpStream) -> io::Result<()> {
        let server = rustix::net::sockopt::ip_original_dst(&guest)?;
        let mut way = self.way(&Destination::Address(server)).await?;
        let mut seen = Vec::new();
        if self.requests.is_some() && PORTS.contains(&server.port()) {
            let mut first = [0; 4096];
            let name = tokio::select! {
                name = sought_name(&mut guest, &mut seen, server) => name?,
                // Whose server speaks first asks for nothing by name.
                length = way.read(&mut first) => {
                    guest.write_all(&first[..length?]).await?;
                    None
                }
            };
            if let Some((requests, host)) = name.as_deref().and_then(|name| self.destined(name)) {
                let way = match server.port() {
                    // A certificate shows who is there.
                    443 => way,
                    _ => self.way_to_name(host.name(), server, way).await?,
                };
                return give_headers(requests, host, again(seen, guest), server, way).await;
            }
        }
        way.write_all(&seen).await?;
        way.flush().await?;
        copy_bidirectional(&mut guest, &mut way).await.map(drop)
    }

    /// The host of this name, if requests to it get headers.
    fn destined(&self, name: &str) -> Option<(&Requests, Destined)> {
        let requests = self.requests.as_ref()?;
        Some((requests, requests.to(name)?))
    }

    async fn way(&self, destination: &Destination) -> io::Result<Tunnel> {
        match (&self.upstream, destination) {
            (Some(upstream), _) => {
                timeout(UPSTREAM_PATIENCE, upstream.connect(destination)).await?.map_err(io::Error::other)
            }
            (None, Destination::Address(server)) => {
                Ok(Either::Left(timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await??))
            }
            (None, Destination::Name(..)) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A connection to where a name leads, which is `way` if that is where the guest has connected to: anybody might be
    /// elsewhere, to be told what is for the host of that name alone.
    async fn way_to_name(&self, name: &str, server: SocketAddrV4, way: Tunnel) -> io::Result<Tunnel> {
        let found = look_up(&self.resolvers, name).await.map(|found| found.addresses).unwrap_or_default();
        if found.contains(server.ip()) {
            return Ok(way);
        }
        let reached = found.into_iter().find(|address| !is_fenced(*address) && self.policy.reaches(*address));
        let Some(address) = reached else {
            self.refused.add();
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        self.way(&Destination::Address(SocketAddrV4::new(address, server.port()))).await
    }
}

async fn give_headers<G>(
    requests: &Requests,
    host: Destined,
    guest: G,
    server: SocketAddrV4,
    way: Tunnel,
) -> io::Result<()>
where
    G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match server.port() {
        443 => requests.pass_on_secured(host, guest, way).await,
        _ => requests.pass_on_plain(host, guest, way).await,
    }
}

/// The name that a connection asks for, if it does once it begins to speak.
async fn sought_name(guest: &mut TcpStream, seen: &mut Vec<u8>, server: SocketAddrV4) -> io::Result<Option<String>> {
    guest.readable().await?;
    let head = timeout(HEAD_PATIENCE, read_head(guest, seen, server)).await;
    Ok(head.ok().and_then(Result::ok).map(|(name, _)| name))
}

/// The name that a connection asks for, and what of it is to be sent on. All that was read is added to `seen`.
async fn read_head(guest: &mut TcpStream, seen: &mut Vec<u8>, server: SocketAddrV4) -> io::Result<(String, Vec<u8>)> {
    let mut part = [0; 4096];
    while seen.len() < LONGEST_HEAD {
        let length = guest.read(&mut part).await?;
        if length == 0 {
            break;
        }
        seen.extend(&part[..length]);
        let head = match server.port() {
            443 => head::of_tls(seen),
            _ => head::of_http(seen),
        };
        match head {
            Head::Names { name, forward } => return Ok((name, forward)),
            Head::Incomplete => {}
            Head::Nothing => break,
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
