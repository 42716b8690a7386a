//! The proxy: takes the guest's connections to ports 80 and 443 of anywhere, and makes those whose address was answered for the
//! name that they ask for. Of those that come to it because their address is allowed it makes each.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::either::Either;

use super::Gate;
use super::head::{self, Head};
use super::socks::Destination;
use super::upstream::Tunnel;

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
        let named = timeout(HEAD_PATIENCE, read_head(&mut guest, server)).await;
        let Ok(Ok((name, forward))) = named else {
            self.refused.add();
            return Ok(());
        };
        if !self.allows(&name) || !self.admitted.has(&name, *server.ip()) {
            self.refused.add();
            return Ok(());
        }
        let mut way = match &self.upstream {
            None => Either::Left(timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await??),
            // What the name stands for is found there.
            Some(_) => self.tunnel(&Destination::Name(name, server.port())).await?,
        };
        way.write_all(&forward).await?;
        way.flush().await?;
        copy_bidirectional(&mut guest, &mut way).await.map(drop)
    }

    /// A connection to an address that is allowed.
    pub(super) async fn by_address(self: Arc<Self>, mut guest: TcpStream) -> io::Result<()> {
        let server = rustix::net::sockopt::ip_original_dst(&guest)?;
        let mut way = self.tunnel(&Destination::Address(server)).await?;
        copy_bidirectional(&mut guest, &mut way).await.map(drop)
    }

    async fn tunnel(&self, destination: &Destination) -> io::Result<Tunnel> {
        let upstream = self.upstream.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        timeout(UPSTREAM_PATIENCE, upstream.connect(destination)).await?.map_err(io::Error::other)
    }
}

/// The name that a connection asks for, and what of it is to be sent on.
async fn read_head(guest: &mut TcpStream, server: SocketAddrV4) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while bytes.len() < LONGEST_HEAD {
        let length = guest.read(&mut part).await?;
        if length == 0 {
            break;
        }
        bytes.extend(&part[..length]);
        let head = match server.port() {
            443 => head::of_tls(&bytes),
            _ => head::of_http(&bytes),
        };
        match head {
            Head::Names { name, forward } => return Ok((name, forward)),
            Head::Incomplete => {}
            Head::Nothing => break,
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
