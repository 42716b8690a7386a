//! Connections: accepts them, plain or with TLS, bounds what a client may make them hold, and ends them in good order.
//!
//! A connection is closed when a handshake or a request's header does not arrive in time, when nothing of an answer is
//! taken for too long, and when nothing was asked for a while. [`body`] has the bodies that the API
//! bounds requests with. Knows nothing of what is asked.

pub mod body;
mod https;
mod watched;

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::config::ClientPatience;
pub use https::{IdentityError, ServerIdentity};
use watched::{Progress, Watched};

/// What the header of one request may have; more is answered 431.
const MAX_HEADER: usize = 64 << 10;

/// How long connections may take to send what is written when all requests have ended.
const FLUSH: Duration = Duration::from_secs(3);

/// For a machine that is out of descriptors to find some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Requests that one connection of HTTP/2 may have at once: as many as one sandbox answers, all of which may come on it.
const STREAMS: u32 = 512;

/// Who sent a request; in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// How a request came; in its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// In TLS.
    Https,
}

/// Where connections come in.
#[derive(Debug)]
pub enum Door {
    /// In the clear.
    Plain(TcpListener),
    /// In TLS.
    Secure(TcpListener, ServerIdentity),
}

/// In an answer's extensions: its client may take it as slowly as it likes, as what follows a video does.
#[derive(Debug, Clone, Copy)]
pub struct Unhurried;

impl Door {
    fn open(self) -> (TcpListener, Option<TlsAcceptor>) {
        match self {
            Self::Plain(listener) => (listener, None),
            Self::Secure(listener, identity) => (listener, Some(identity.acceptor())),
        }
    }
}

/// Answers with `service` until `closed`, then sends out what is under way.
pub async fn serve<S>(door: Door, service: S, patience: ClientPatience, closed: CancellationToken)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (listener, acceptor) = door.open();
    let connections = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => (stream, Peer(address.ip().to_canonical())),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = closed.cancelled() => break,
        };
        // An answer that waits for more to send is only late.
        let _ = stream.set_nodelay(true);
        let (service, watcher) = (service.clone(), connections.watcher());
        match &acceptor {
            None => drop(tokio::spawn(answer(stream, (peer, Scheme::Http), service, patience, watcher))),
            Some(acceptor) => {
                let (acceptor, closed) = (acceptor.clone(), closed.clone());
                tokio::spawn(async move {
                    let stream = tokio::select! {
                        stream = secure(&acceptor, stream, patience) => stream,
                        () = closed.cancelled() => return,
                    };
                    match stream {
                        Ok(stream) => answer(stream, (peer, Scheme::Https), service, patience, watcher).await,
                        // A client that does not believe our certificate is its owner's to see to.
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::debug!(peer = %peer.0, error, "a handshake came to nothing");
                        }
                    }
                });
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(FLUSH, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections were cut off");
    }
}

async fn secure(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    patience: ClientPatience,
) -> io::Result<Box<TlsStream<TcpStream>>> {
    let stream = tokio::time::timeout(patience.header, acceptor.accept(stream)).await;
    stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(Box::new)
}

/// Answers the requests of one connection.
async fn answer<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (peer, scheme): (Peer, Scheme),
    service: S,
    patience: ClientPatience,
    watcher: Watcher,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let progress = Progress::default();
    let io = TokioIo::new(Watched::new(stream, patience, progress.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        let (service, progress) = (service.clone(), progress.clone());
        let under_way = progress.request();
        let is_http2 = request.version() == Version::HTTP_2;
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(scheme);
            let response = service.oneshot(request).await?;
            let is_unhurried = response.extensions().get::<Unhurried>().is_some();
            if is_unhurried {
                progress.is_unhurried();
            }
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // A WebSocket's client may stop reading for as long as it likes: that holds up only what it follows.
                progress.is_upgraded();
            }
            Ok::<_, Infallible>(response.map(|body| {
                let body = Body::new(body::Guarded::new(body, under_way));
                if is_http2 && !is_unhurried { Body::new(body::Taken::new(body, patience.answer)) } else { body }
            }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(MAX_HEADER);
    builder
        .http2()
        .timer(TokioTimer::new())
        // WebSockets of guests' services; the API has none that is asked for so.
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADER as u32)
        .keep_alive_interval(patience.ping)
        .keep_alive_timeout(patience.answer);
    let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "a connection ended early");
    }
}
