//! HTTP to one guest: connections opened inside the sandbox's namespace and kept for reuse, the access token added.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use connectrpc::client::{BoxFuture, ClientBody, ClientTransport};
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::PORT;
use crate::net::GuestConnector;

const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");

/// A guest accepts in a fraction of a millisecond; this is for one that is drowned in work. Longer than the second
/// after which a lost packet is sent again.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Kept connections; more than this many at once are opened as needed.
const IDLE_CONNECTIONS: usize = 16;

/// Why a request got no answer.
pub(super) type TransportError = hyper_util::client::legacy::Error;

/// A client of one guest.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Body>,
    token: HeaderValue,
}

impl Transport {
    pub fn new(connector: GuestConnector, token: HeaderValue) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        // A guest does not close what is idle; while it stood still, the host's end is gone with the monitor.
        builder.pool_max_idle_per_host(IDLE_CONNECTIONS).pool_idle_timeout(None);
        Self { client: builder.build(Connector(connector)), token }
    }

    /// The same connections, with another token.
    pub fn with_token(&self, token: HeaderValue) -> Self {
        Self { client: self.client.clone(), token }
    }

    /// Sends a request whose URI needs only a path.
    pub fn send(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, TransportError>> + Send + 'static {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://guest:{PORT}{path}").parse().expect("a path that was parsed before");
        request.headers_mut().insert(ACCESS_TOKEN, self.token.clone());
        let response = self.client.request(request);
        async move { Ok(response.await?.map(Body::new)) }
    }
}

impl ClientTransport for Transport {
    type ResponseBody = Body;
    type Error = TransportError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        Box::pin(Transport::send(self, request.map(Body::new)))
    }
}

/// Opens connections for the client's pool.
#[derive(Clone)]
struct Connector(GuestConnector);

impl tower::Service<Uri> for Connector {
    type Response = GuestStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<GuestStream>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.0.clone();
        Box::pin(async move {
            let stream = connector.connect(PORT, CONNECT_DEADLINE).await?;
            Ok(GuestStream(TokioIo::new(stream)))
        })
    }
}

/// A connection, as the pool wants it described.
struct GuestStream(TokioIo<TcpStream>);

impl Connection for GuestStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
