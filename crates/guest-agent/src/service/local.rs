//! Services that listen on this system's loopback alone, for the host: it says a port and is joined to whatever listens
//! there. What listens on the outer address the host reaches by itself.
//!
//! No HTTP: two bytes of port, one byte of answer, then the service's own bytes. Knows nothing of what they mean.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::log;

/// The answers.
const JOINED: u8 = 0;
const NOBODY: u8 = 1;

/// A host that says nothing for so long has gone; a service that does not accept for so long never will.
const PATIENCE: Duration = Duration::from_secs(5);

/// Room for what is under way in each direction.
const BUFFER: usize = 32 << 10;

/// For a system that is out of descriptors to find some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Joins whatever `control_peer` asks for, for ever. The agent's own `ports` are no services.
pub async fn serve(listener: TcpListener, control_peer: IpAddr, ports: [u16; 3]) {
    loop {
        match listener.accept().await {
            // Others are not even told why.
            Ok((_, peer)) if peer.ip().to_canonical() != control_peer => {}
            Ok((host, _)) => drop(tokio::spawn(join(host, ports))),
            Err(error) => {
                log::line(format_args!("cannot accept: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn join(mut host: TcpStream, ports: [u16; 3]) -> io::Result<()> {
    host.set_nodelay(true)?;
    let port = timeout(PATIENCE, host.read_u16()).await??;
    let service = if ports.contains(&port) { None } else { connect(port).await };
    let Some(mut service) = service else { return host.write_u8(NOBODY).await };
    service.set_nodelay(true)?;
    host.write_u8(JOINED).await?;
    copy_bidirectional_with_sizes(&mut host, &mut service, BUFFER, BUFFER).await.map(drop)
}

/// Whoever listens, by either of loopback's addresses.
async fn connect(port: u16) -> Option<TcpStream> {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        if let Ok(Ok(service)) = timeout(PATIENCE, TcpStream::connect((address, port))).await {
            return Some(service);
        }
    }
    None
}
