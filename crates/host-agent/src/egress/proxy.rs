//! The proxy: takes the guest's connections to ports 80 and 443 of anywhere, and makes those whose address was answered for the
//! name that they ask for.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Gate;
use super::head::{self, Head};

/// Connections at once; further ones wait. Each is two descriptors.
const AT_ONCE: usize = 200;

/// How long a guest may take to say what it wants.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// The most that it may say until then.
const LONGEST_HEAD: usize = 32 << 10;

/// How long a server may take to be connected to.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Passes connections on until that is impossible.
pub(super) async fn pass_on(gate: &Arc<Gate>, listener: TcpListener) -> io::Error {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return io::ErrorKind::BrokenPipe.into() };
        let Ok((stream, _)) = listener.accept().await else {
            // Too many descriptors, for a moment.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let gate = gate.clone();
        tokio::spawn(async move {
            // Whatever went wrong, the guest sees its connection end.
            let _ = gate.serve(stream).await;
            drop(permit);
        });
    }
}

impl Gate {
    async fn serve(&self, mut guest: TcpStream) -> io::Result<()> {
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
        let mut upstream = timeout(CONNECT_PATIENCE, TcpStream::connect(server)).await??;
        upstream.write_all(&forward).await?;
        copy_bidirectional(&mut guest, &mut upstream).await.map(drop)
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
