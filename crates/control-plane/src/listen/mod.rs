//! Connections: accepts them, bounds what a client may make them hold, and ends them in good order.
//!
//! A connection is closed when a request's header does not arrive in time, when nothing of an answer is taken for too
//! long, and when nothing was asked for a while. [`body`] has the bodies that the API
//! bounds requests with. Knows nothing of what is asked.

pub mod body;
mod watched;

use std::convert::Infallible;
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

/// Answers with `service` until `closed`, then sends out what is under way.
pub async fn serve<S>(listener: TcpListener, service: S, patience: ClientPatience, closed: CancellationToken)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connections = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
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
        tokio::spawn(answer(stream, service.clone(), patience, connections.watcher()));
    }
    drop(listener);
    if tokio::time::timeout(FLUSH, connections.shutdown()).await.is_err() {
        tracing::warn!("some connections were cut off");
    }
}

/// Answers the requests of one connection.
async fn answer<S>(
    stream: TcpStream,
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
            let response = service.oneshot(request.map(Body::new)).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // A WebSocket's client may stop reading for as long as it likes: that holds up only what it follows.
                progress.is_upgraded();
            }
            Ok::<_, Infallible>(response.map(|body| {
                let body = Body::new(body::Guarded::new(body, under_way));
                if is_http2 { Body::new(body::Taken::new(body, patience.answer)) } else { body }
            }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(MAX_HEADER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER as u32)
        .keep_alive_interval(patience.idle)
        .keep_alive_timeout(patience.answer);
    let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error, "a connection ended early");
    }
}
