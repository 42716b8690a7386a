//! Requests to hosts whose requests get headers: they are read, get them in the place of their own of those names, and go on;
//! over TLS on both sides where they came so, in the protocol that the server chose. The guest believes the certificates that
//! it is shown because it was told to; the server's are checked as they are by any client.
//!
//! A connection is for one host. What it asks of another is refused: that might be somebody to whom the headers must not be
//! told.

use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::FutureExt;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::RequestHeaders;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional, join};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::authority::{Credential, Signer};
use super::upstream::believing;

/// What is understood, by the names that TLS has for it.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
const HTTP2: &[u8] = b"h2";

/// How long guest and server may take until they have agreed on a way to speak.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which requests get what, and how their hosts are spoken for and spoken with.
pub(super) struct Requests {
    headers: RequestHeaders,
    signer: Signer,
    client: ClientConfig,
}

/// A host, and what requests to it get.
#[derive(Debug, Clone)]
pub(super) struct Destined {
    name: String,
    headers: HeaderMap,
}

impl Destined {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Requests {
    /// For these headers. Servers show certificates of the authorities in `trusted`.
    pub fn new(headers: &RequestHeaders, credential: &Credential, trusted: &[u8]) -> io::Result<Self> {
        Ok(Self { headers: headers.clone(), signer: Signer::new(credential)?, client: believing(trusted)? })
    }

    /// The host of this name, in lower case, if requests to it get anything.
    pub fn to(&self, name: &str) -> Option<Destined> {
        let header = |name: &str, value: &str| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        let headers = self.headers.of(name)?.iter();
        let headers = headers.filter_map(|(name, value)| header(name, value.reveal())).collect();
        Some(Destined { name: name.to_owned(), headers })
    }

    /// Passes on what a guest asks of a host over TLS, until one of the two has enough.
    pub async fn pass_on_secured<G, S>(&self, host: Destined, guest: G, server: S) -> io::Result<()>
    where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agreed = async {
            let begun = LazyConfigAcceptor::new(Acceptor::default(), guest).await?;
            let mut client = self.client.clone();
            let offered = begun.client_hello().alpn().into_iter().flatten();
            client.alpn_protocols = offered.filter(|name| PROTOCOLS.contains(name)).map(<[u8]>::to_vec).collect();
            let name = ServerName::try_from(host.name.clone()).map_err(io::Error::other)?;
            let server = TlsConnector::from(Arc::new(client)).connect(name, server).await;
            let protocol =
                server.as_ref().ok().and_then(|server| server.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
            let config = self.signer.server(&host.name, protocol.as_deref())?;
            Ok::<_, io::Error>((begun.into_stream(Arc::new(config)).await?, server, protocol))
        };
        let (guest, server, protocol) = timeout(PATIENCE, agreed).await??;
        let server = match server {
            Err(error) => Server::unspoken(&error),
            Ok(server) if protocol.as_deref() == Some(HTTP2) => Server::http2(server).await?,
            Ok(server) => Server::http1(server).await?,
        };
        pass_on(host, guest, server).await
    }

    /// The same of what is asked without TLS.
    pub async fn pass_on_plain<G, S>(&self, host: Destined, guest: G, server: S) -> io::Result<()>
    where
        G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        pass_on(host, guest, Server::http1(server).await?).await
    }
}

/// A connection with what was read from it before.
pub(super) fn again(seen: Vec<u8>, stream: TcpStream) -> impl AsyncRead + AsyncWrite + Send + Unpin + 'static {
    let (reader, writer) = stream.into_split();
    join(Cursor::new(seen).chain(reader), writer)
}

/// A server, and the work that its connection is, which is over when the server has enough.
struct Server {
    way: Way,
    connection: AbortOnDropHandle<()>,
}

/// How requests get to it.
enum Way {
    /// One after another.
    Http1(Mutex<client1::SendRequest<Incoming>>),
    /// As they come.
    Http2(client2::SendRequest<Incoming>),
    /// Not, for this reason.
    None(String),
}

impl Server {
    fn new(way: Way, connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { way, connection: AbortOnDropHandle::new(tokio::spawn(connection)) }
    }

    async fn http1<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> io::Result<Self> {
        let (sender, connection) = client1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self::new(Way::Http1(Mutex::new(sender)), connection.with_upgrades().map(drop)))
    }

    async fn http2<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> io::Result<Self> {
        let shaken = client2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(io::Error::other)?;
        Ok(Self::new(Way::Http2(sender), connection.map(drop)))
    }

    fn unspoken(error: &io::Error) -> Self {
        Self::new(Way::None(error.to_string()), std::future::pending())
    }
}

async fn pass_on<G>(host: Destined, guest: G, server: Server) -> io::Result<()>
where
    G: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Server { way, mut connection } = server;
    let passage =
        Arc::new(Passage { host, way, is_upgrading: AtomicBool::new(false), upgraded: TaskTracker::default() });
    let serve = {
        let passage = passage.clone();
        service_fn(move |request| passage.clone().pass(request))
    };
    let guest = TokioIo::new(guest);
    // A server that has enough between two requests ends the guest's connection too: its next request would be lost.
    let passed = match passage.way {
        Way::Http2(_) => {
            let mut served = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(guest, serve));
            tokio::select! {
                served = served.as_mut() => served,
                _ = &mut connection => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            }
        }
        Way::Http1(_) | Way::None(_) => {
            let mut served = pin!(http1::Builder::new().serve_connection(guest, serve).with_upgrades());
            tokio::select! {
                served = served.as_mut() => served,
                _ = &mut connection => {
                    if !passage.is_upgrading.load(Ordering::Relaxed) {
                        served.as_mut().graceful_shutdown();
                    }
                    served.await
                }
            }
        }
    };
    passage.upgraded.close();
    passage.upgraded.wait().await;
    passed.map_err(io::Error::other)
}

/// The way of one connection's requests.
struct Passage {
    host: Destined,
    way: Way,
    /// Whether a request wants to make the connection something else than HTTP, or has.
    is_upgrading: AtomicBool,
    /// What connections have become.
    upgraded: TaskTracker,
}

impl Passage {
    /// An error ends the connection, so that its client knows that nothing came of the request.
    async fn pass(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        if !self.is_destined(&request) {
            let problem = format!("this connection is for {}, and the request is not", self.host.name);
            return Ok(answer(StatusCode::MISDIRECTED_REQUEST, problem));
        }
        // The answer to the one would tell the headers to the guest; the other is for proxies.
        if [Method::TRACE, Method::CONNECT].contains(request.method()) {
            let problem =
                format!("requests to {} get headers, and {} is not passed on", self.host.name, request.method());
            return Ok(answer(StatusCode::METHOD_NOT_ALLOWED, problem));
        }
        for (name, value) in &self.host.headers {
            request.headers_mut().insert(name, value.clone());
        }
        // It could say of any header that it ends with this connection.
        request.headers_mut().remove(header::CONNECTION);
        let guest = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        self.is_upgrading.store(guest.is_some(), Ordering::Relaxed);
        if guest.is_some() {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let sent = match &self.way {
            Way::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Way::Http2(sender) => sender.clone().send_request(request).await,
            Way::None(why) => {
                let problem = format!("{} cannot be spoken with over TLS: {why}", self.host.name);
                return Ok(answer(StatusCode::BAD_GATEWAY, problem));
            }
        };
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                let problem = format!("{} does not answer: {error}", self.host.name);
                return Ok(answer(StatusCode::BAD_GATEWAY, problem));
            }
        };
        // By HTTP/3 the next request would get no headers.
        response.headers_mut().remove(header::ALT_SVC);
        match guest {
            Some(guest) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.upgraded.spawn(speak(guest, hyper::upgrade::on(&mut response)));
            }
            _ => self.is_upgrading.store(false, Ordering::Relaxed),
        }
        Ok(response.map(Body::new))
    }

    /// Whether a request is for the host of its connection, in each place where it says so.
    fn is_destined<B>(&self, request: &Request<B>) -> bool {
        let said =
            request.headers().get_all(header::HOST).iter().map(|value| Authority::try_from(value.as_bytes()).ok());
        let mut all = request.uri().authority().cloned().map(Some).into_iter().chain(said).peekable();
        let is_host = |authority: &Authority| {
            let host = authority.host();
            host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(&self.host.name)
        };
        all.peek().is_some() && all.all(|authority| authority.as_ref().is_some_and(is_host))
    }
}

fn answer(status: StatusCode, problem: String) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("sandpiper: {problem}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// What a connection is once it has become something else.
async fn speak(guest: OnUpgrade, server: OnUpgrade) {
    if let (Ok(guest), Ok(server)) = tokio::join!(guest, server) {
        let _ = copy_bidirectional(&mut TokioIo::new(guest), &mut TokioIo::new(server)).await;
    }
}

#[cfg(test)]
mod tests;
