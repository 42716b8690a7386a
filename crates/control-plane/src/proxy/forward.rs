//! One request to a guest and its answer back: bodies pass through as they come, and as slowly as they are taken.

use std::io;
use std::net::IpAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::HOST;
use http::{Method, StatusCode, Uri, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::progress::Progress;
use super::refusal::Refusal;
use super::target::{self, Target};
use super::upgrade::Wish;
use super::{Proxy, headers, location};
use crate::listen::body::Guarded;
use crate::listen::{Peer, Scheme, Unhurried};
use crate::store::Sandbox;

/// What passes bytes between a request and its guest.
type Speaking = AbortOnDropHandle<hyper::Result<()>>;

/// What the header of a guest's answer may have.
const MAX_HEADER: usize = 64 << 10;
const MAX_HEADERS: usize = 200;

/// Passes a request on. What is `held` lasts as long as the answer.
pub async fn forward(
    proxy: &Proxy,
    target: &Target,
    sandbox: &Sandbox,
    mut request: Request,
    held: impl Send + Unpin + 'static,
) -> Result<Response, Refusal> {
    let wish = Wish::of(&mut request);
    if wish.is_none() && request.method() == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    let mut request = for_guest(request);
    if let Some(host) = sandbox.request_host.as_ref().and_then(|host| host.for_port(target.port)) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(wish) = &wish {
        wish.say(&mut request);
    }
    let connection = proxy.host.open_port(&target.id, target.port).await?;
    let (progress, request) = Progress::of(request);
    let (mut sender, speaking) = match sandbox.https_ports.has(target.port) {
        false => speak(connection).await?,
        true => {
            let secured = progress.answered(proxy.patience.service, proxy.secured.connect(connection)).await;
            speak(TokioIo::new(secured.ok_or(Refusal::Silent)?.map_err(no_tls)?)).await?
        }
    };
    let answer = progress.answered(proxy.patience.service, sender.send_request(request)).await;
    let mut answer = answer.ok_or(Refusal::Silent)?.map_err(no_answer)?;
    let guest = hyper::upgrade::on(&mut answer);
    let (mut parts, body) = answer.into_parts();
    parts.version = Version::HTTP_11;
    headers::remove_hop_by_hop(&mut parts.headers);
    location::rewrite(&mut parts.headers, target);
    parts.extensions.insert(Unhurried);
    if parts.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Response::from_parts(parts, Body::new(Guarded::new(Body::new(body), (speaking, held)))));
    }
    // A guest that switches unasked speaks no HTTP.
    let wish = wish.ok_or(Refusal::NoAnswer)?;
    wish.answer(&mut parts.status, &mut parts.headers);
    wish.join(guest, proxy.drain.asked.clone(), (speaking, held));
    Ok(Response::from_parts(parts, Body::empty()))
}

/// Begins to speak HTTP on a connection to a guest.
async fn speak<C>(connection: C) -> Result<(http1::SendRequest<Body>, Speaking), Refusal>
where
    C: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEADER).max_headers(MAX_HEADERS);
    let (sender, connection) = builder.handshake(connection).await.map_err(no_answer)?;
    Ok((sender, AbortOnDropHandle::new(tokio::spawn(connection.with_upgrades()))))
}

/// The same request as the guest is to see it: its path is passed on as it was sent.
fn for_guest(request: Request) -> Request {
    let (mut parts, body) = request.into_parts();
    let authority = target::authority(&parts.uri, &parts.headers);
    let caller: Option<IpAddr> = parts.extensions.get::<Peer>().map(|peer| peer.0);
    headers::remove_hop_by_hop(&mut parts.headers);
    let scheme = parts.extensions.get().copied().unwrap_or(Scheme::Http);
    headers::for_guest(&mut parts.headers, authority.as_ref(), caller, scheme);
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Request::from_parts(parts, body)
}

fn no_answer(error: hyper::Error) -> Refusal {
    tracing::debug!(error = &error as &dyn std::error::Error, "a guest's service gave no answer");
    Refusal::NoAnswer
}

fn no_tls(error: io::Error) -> Refusal {
    tracing::debug!(error = &error as &dyn std::error::Error, "a guest's service does not speak TLS");
    Refusal::NoAnswer
}
