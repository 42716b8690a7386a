//! The host agent's port: the seed's RPCs and our own over Connect, gRPC and gRPC-Web, and guest streams over plain
//! HTTP. The only place that knows wire types; it converts and calls.
#![allow(refining_impl_trait_internal, reason = "the generated traits leave the concrete types to us")]

mod drain;
mod error;
mod guard;
mod host;
mod policy;
mod ports;
mod sandboxes;
mod streams;
mod tls;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use connectrpc::Limits;
use http::{Request, Response};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::HostAgent;
use crate::guest::READ_LIMIT;
pub use drain::Drain;
use guard::KnownHosts;
use tls::TlsListener;
pub use tls::{Tls, TlsError};

/// Where the service is offered. The caller binds.
#[derive(Debug)]
pub enum Listener {
    /// Only on loopback: whoever reaches the port is obeyed.
    Tcp(TcpListener),
    /// Wherever: only control planes of the same authority are obeyed.
    Tls(TcpListener, Tls),
    /// Whoever may open the file is obeyed.
    Unix(UnixListener),
}

/// Requests that carry a file's content need more than the usual 4 MiB.
const WRITE_LIMIT: usize = READ_LIMIT + 64 * 1024;

/// Answers requests until `drain` is asked to finish, then refuses them, and ends at `shutdown`.
pub async fn serve(
    agent: Arc<HostAgent>,
    listener: Listener,
    drain: Drain,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let stop = shutdown.cancelled_owned();
    let router = router(agent, &drain).layer(from_fn_with_state(drain, drain::admit));
    match listener {
        Listener::Tcp(listener) => {
            let router = guarded(router, KnownHosts::new(listener.local_addr()?, None));
            let listener = listener.tap_io(|stream| {
                // An answer that waits for more to send is only late.
                let _ = stream.set_nodelay(true);
            });
            axum::serve(listener, router).with_graceful_shutdown(stop).await
        }
        Listener::Tls(listener, tls) => {
            let listener = TlsListener::new(listener, tls.clone());
            let address = axum::serve::Listener::local_addr(&listener)?;
            let router = guarded(router, KnownHosts::new(address, Some(tls)));
            axum::serve(listener, router).with_graceful_shutdown(stop).await
        }
        // No browser opens it.
        Listener::Unix(listener) => axum::serve(listener, router).with_graceful_shutdown(stop).await,
    }
}

/// The same without a listener, for callers in this process. Cheap to clone.
#[derive(Clone)]
pub struct InProcess(Router);

impl InProcess {
    /// Answers for this host agent.
    pub fn new(agent: Arc<HostAgent>) -> Self {
        Self(router(agent, &Drain::default()))
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let Ok(answer) = self.0.clone().oneshot(request).await;
        answer
    }
}

fn guarded(router: Router, hosts: KnownHosts) -> Router {
    router.layer(from_fn_with_state(Arc::new(hosts), guard::refuse_pages))
}

fn router(agent: Arc<HostAgent>, drain: &Drain) -> Router {
    let large = Limits::default().with_max_request_body_size(WRITE_LIMIT).with_max_message_size(WRITE_LIMIT);
    let rpc = connectrpc::Router::new()
        .add_service(Arc::new(sandboxes::SandboxService::new(agent.clone())))
        .add_service(Arc::new(host::HostService::new(agent.clone(), drain.asked())))
        .with_route_limits("hostagent.v1.HostAgentService/WriteFile", large);
    streams::router(agent.clone()).merge(ports::router(agent)).fallback_service(rpc.into_axum_service())
}
