//! How a host agent is dialled: a unix socket or TCP behind one type.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tower::util::BoxCloneSyncService;

use crate::config::HostAgentAddress;

/// Dials the host agent, whatever URI it is asked for.
pub type Connector = BoxCloneSyncService<Uri, HostStream, io::Error>;

/// A connection to the host agent.
pub struct HostStream(TokioIo<Either<TcpStream, UnixStream>>);

/// A connector for `address`.
pub fn connector(address: &HostAgentAddress) -> Connector {
    match address.clone() {
        HostAgentAddress::Unix(path) => {
            let path: std::sync::Arc<PathBuf> = path.into();
            Connector::new(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { dial_unix(&path).await }
            }))
        }
        HostAgentAddress::Http(uri) => Connector::new(tower::service_fn(move |_: Uri| dial_tcp(uri.clone()))),
    }
}

async fn dial_unix(path: &Path) -> io::Result<HostStream> {
    Ok(HostStream(TokioIo::new(Either::Right(UnixStream::connect(path).await?))))
}

async fn dial_tcp(uri: Uri) -> io::Result<HostStream> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    Ok(HostStream(TokioIo::new(Either::Left(stream))))
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
