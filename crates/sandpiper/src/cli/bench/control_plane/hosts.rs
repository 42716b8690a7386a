//! Host agents that have sandboxes without running any. They answer what the reconciler asks, over the real protocol
//! on a socket; nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::routing::post;
use buffa::Message;
use control_plane::HostAgentAddress;
use http::header::CONTENT_TYPE;
use model::SandboxId;
use proto::hostagent::v1::{GetHostResponse, ListSandboxesResponse, ListSnapshotsResponse, SandboxInfo};
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;

/// Answers until it is dropped.
pub struct FakeHost {
    socket: PathBuf,
    _serving: AbortOnDropHandle<()>,
}

impl FakeHost {
    /// Answers at `socket`, with these sandboxes, all of them running.
    pub fn answer(socket: PathBuf, sandboxes: &[SandboxId]) -> anyhow::Result<Self> {
        let info = |id: &SandboxId| SandboxInfo {
            sandbox_id: id.to_string(),
            status: "running".into(),
            host_ip: "10.11.0.1".into(),
            ..Default::default()
        };
        let list = ListSandboxesResponse { sandboxes: sandboxes.iter().map(info).collect(), ..Default::default() };
        let host = GetHostResponse {
            instance_id: "simulated".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        };
        let router = Router::new()
            .route("/hostagent.v1.HostAgentService/ListSandboxes", say(&list))
            .route("/hostagent.v1.HostService/ListSnapshots", say(&ListSnapshotsResponse::default()))
            .route("/hostagent.v1.HostService/GetHost", say(&host));
        let listener = UnixListener::bind(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let serving = tokio::spawn(async move {
            // An accept loop that ended would show as a host that does not answer.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { socket, _serving: AbortOnDropHandle::new(serving) })
    }

    /// How it is reached.
    pub fn address(&self) -> HostAgentAddress {
        HostAgentAddress::Unix(self.socket.clone())
    }
}

/// A unary answer as Connect has it: the message is the body.
fn say(message: &impl Message) -> axum::routing::MethodRouter {
    let body: Arc<[u8]> = message.encode_to_vec().into();
    post(async move || ([(CONTENT_TYPE, "application/proto")], axum::body::Bytes::from_owner(body)))
}
