//! Connections: accepts them, bounds what a client may make them hold, and ends them in good order.
//!
//! A connection is closed when a request's header does not arrive in time, when nothing of an answer is taken for too
//! long, and when nothing was asked for a while. [`body`] has the bodies that the API
//! bounds requests with. Knows nothing of what is asked.

pub mod body;
mod watched;

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::config::ClientPatience;
use watched::{Progress, Watched};

/// What the header of one request may have; more is answered 431.
const MAX_HEADER: usize = 64 << 10;

/// How long connections may take to send what is written when all requests have ended.
const FLUSH: Duration = Duration::from_secs(3);

/// For a machine that is out of descriptors to find some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Who sent a request; in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// In an answer's extensions: its client may take it as slowly as it likes, as what follows a video does.
#[derive(Debug, Clone, Copy)]
pub struct Unhurried;

/// Answers with `service` until `closed`, then sends out what is under way.
pub async fn serve<S>(listener: TcpListener, service: S, patience: ClientPatience, closed: CancellationToken)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
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
        tokio::spawn(answer((stream, peer), service.clone(), patience, connections.watcher()));
    }
    drop(listener);
    if tokio::time::timeout(FLUSH, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections were cut off");
    }
}

/// Answers the requests of one connection.
async fn answer<S>(
    (stream, peer): (TcpStream, Peer),
    service: S,
    patience: ClientPatience,
    watcher: hyper_util::server::graceful::Watcher,
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
        .max_header_list_size(MAX_HEADER as u32)
        .keep_alive_interval(patience.idle)
        .keep_alive_timeout(patience.answer);
    let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "a connection ended early");
    }
}
