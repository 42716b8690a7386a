//! Ports of guests: a request that asks to become a connection to one, and the bytes that then go both ways. What they
//! mean is not looked at here.
//!
//! Every byte that passes is a use of the sandbox; a connection on which none does is not. It ends when the sandbox does
//! not run any more.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connectrpc::ConnectError;
use http::{StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::Instant;

use super::error::IntoConnect;
use super::streams::Refusal;
use crate::HostAgent;
use crate::net::GuestStream;
use crate::sandbox::Presence;

/// What a connection is asked to become.
const PROTOCOL: &str = "sandpiper-port";

/// Room for what is under way in each direction.
const BUFFER: usize = 32 << 10;

/// A connection on which nothing passes for so long is taken for forgotten.
const IDLE: Duration = Duration::from_secs(20 * 60);

pub(super) fn router(agent: Arc<HostAgent>) -> Router {
    Router::new().route("/sandboxes/{id}/ports/{port}", get(open)).with_state(agent)
}

async fn open(
    State(agent): State<Arc<HostAgent>>,
    Path((id, port)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let id = id.parse().map_err(|error: model::InvalidId| Refusal(error.into_connect()))?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Refusal(ConnectError::invalid_argument("a port is between 1 and 65535")))?;
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        let message = format!("the connection must be asked to become a {PROTOCOL}");
        return Err(Refusal(ConnectError::invalid_argument(message)));
    }
    let using = agent.sandboxes.use_guest(&id).await.map_err(|error| Refusal(error.into_connect()))?;
    let service = using.guest.open_port(port).await.map_err(|error| Refusal(error.into_connect()))?;
    tokio::spawn(relay(hyper::upgrade::on(&mut request), service, using.presence));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}

async fn relay(upgrade: OnUpgrade, service: GuestStream, presence: Presence) {
    let Ok(caller) = upgrade.await else { return };
    let mut caller = TokioIo::new(caller);
    let last = Arc::new(Mutex::new(Instant::now()));
    let mut service = Noted { inner: service, presence: presence.clone(), last: last.clone() };
    tokio::select! {
        // However it ends, both sides are closed.
        _ = copy_bidirectional_with_sizes(&mut caller, &mut service, BUFFER, BUFFER) => {}
        () = presence.ended() => {}
        () = forgotten(&last) => {}
    }
}

async fn forgotten(last: &Mutex<Instant>) {
    loop {
        let due = *last.lock().unwrap_or_else(PoisonError::into_inner) + IDLE;
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// A connection whose bytes are noted as a use of its sandbox.
struct Noted {
    inner: GuestStream,
    presence: Presence,
    last: Arc<Mutex<Instant>>,
}

impl Noted {
    fn note(&self, bytes: usize) {
        if bytes > 0 {
            self.presence.touch();
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.note(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        self.note(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
