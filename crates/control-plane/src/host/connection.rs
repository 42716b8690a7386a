//! How a host agent is dialled: a unix socket, TCP or TLS behind one type.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::util::BoxCloneSyncService;

use crate::config::HostAgentAddress;

/// Dials the host agent, whatever URI it is asked for.
pub type Connector = BoxCloneSyncService<Uri, HostStream, io::Error>;

/// A connection to the host agent.
pub struct HostStream(TokioIo<Either<UnixStream, Network>>);

/// Bytes to another machine, or by way of loopback.
type Network = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// What is spoken on a connection. Only TLS has to be told beforehand.
#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// A connector for `address`.
pub fn connector(address: &HostAgentAddress, protocol: Protocol) -> Connector {
    match address.clone() {
        HostAgentAddress::Unix(path) => {
            let path: Arc<PathBuf> = path.into();
            Connector::new(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { dial_unix(&path).await }
            }))
        }
        HostAgentAddress::Http(uri) => Connector::new(tower::service_fn(move |_: Uri| {
            let uri = uri.clone();
            async move { Ok(HostStream(TokioIo::new(Either::Right(Either::Left(dial_tcp(&uri, 80).await?))))) }
        })),
        HostAgentAddress::Https(uri, tls) => Connector::new(tower::service_fn(move |_: Uri| {
            let (uri, tls) = (uri.clone(), TlsConnector::from(tls.speaking(protocol.as_bytes())));
            async move { dial_tls(&uri, &tls).await }
        })),
    }
}

async fn dial_unix(path: &Path) -> io::Result<HostStream> {
    Ok(HostStream(TokioIo::new(Either::Left(UnixStream::connect(path).await?))))
}

/// The host in a URI, without what marks an IPv6 address there.
fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

async fn dial_tcp(uri: &Uri, default_port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host(uri), uri.port_u16().unwrap_or(default_port))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn dial_tls(uri: &Uri, tls: &TlsConnector) -> io::Result<HostStream> {
    let name = ServerName::try_from(host(uri).to_owned()).map_err(io::Error::other)?;
    let stream = tls.connect(name, dial_tcp(uri, 443).await?).await?;
    Ok(HostStream(TokioIo::new(Either::Right(Either::Right(Box::new(stream))))))
}

impl Connection for HostStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for HostStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for HostStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
