//! The host agent's port: the seed's RPCs and our own over Connect, gRPC and gRPC-Web, and guest streams over plain
//! HTTP. The only place that knows wire types; it converts and calls.
#![allow(refining_impl_trait_internal, reason = "the generated traits leave the concrete types to us")]

mod error;
mod host;
mod sandboxes;
mod streams;

use std::io;
use std::sync::Arc;

use axum::Router;
use connectrpc::Limits;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::HostAgent;
use crate::guest::READ_LIMIT;

/// Where the service is offered. The caller binds.
#[derive(Debug)]
pub enum Listener {
    /// Only on loopback: whoever reaches the port is obeyed.
    Tcp(TcpListener),
    /// Whoever may open the file is obeyed.
    Unix(UnixListener),
}

/// Requests that carry a file's content need more than the usual 4 MiB.
const WRITE_LIMIT: usize = READ_LIMIT + 64 * 1024;

/// Answers requests until `shutdown`, and then only those that have begun.
pub async fn serve(agent: Arc<HostAgent>, listener: Listener, shutdown: CancellationToken) -> io::Result<()> {
    let stop = shutdown.cancelled_owned();
    match listener {
        Listener::Tcp(listener) => axum::serve(listener, router(agent)).with_graceful_shutdown(stop).await,
        Listener::Unix(listener) => axum::serve(listener, router(agent)).with_graceful_shutdown(stop).await,
    }
}

fn router(agent: Arc<HostAgent>) -> Router {
    let large = Limits::default().with_max_request_body_size(WRITE_LIMIT).with_max_message_size(WRITE_LIMIT);
    let rpc = connectrpc::Router::new()
        .add_service(Arc::new(sandboxes::SandboxService::new(agent.clone())))
        .add_service(Arc::new(host::HostService::new(agent.clone())))
        .with_route_limits("hostagent.v1.HostAgentService/WriteFile", large);
    streams::router(agent).fallback_service(rpc.into_axum_service())
}
