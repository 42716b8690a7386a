//! Ports of guests: connections to them, through the host agent.

use bytes::Bytes;
use connectrpc::client::full_body;
use http::header::{CONNECTION, UPGRADE};
use http::{Method, Request, StatusCode};
use hyper::upgrade::Upgraded;
use model::SandboxId;

use super::files::{accept, in_time};
use super::{HostAgent, HostError};

/// What a connection is asked to become.
const PROTOCOL: &str = "sandpiper-port";

impl HostAgent {
    /// A connection to whatever listens at a port of a guest. Nobody else ever uses it.
    pub async fn open_port(&self, id: &SandboxId, port: u16) -> Result<Upgraded, HostError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(self.sandbox_uri(id, &format!("/ports/{port}"))?)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, PROTOCOL)
            .body(full_body(Bytes::new()))
            .map_err(HostError::address)?;
        let answer = in_time(self.streams.request(request)).await?.map_err(HostError::stream)?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return hyper::upgrade::on(answer).await.map_err(HostError::stream);
        }
        let answer = accept(answer).await?;
        Err(HostError::stream(format!("a connection was asked for and {} came", answer.status())))
    }
}
