//! The host's own word that something changed there, instead of asking it again and again.

use axum::body::Body;
use connectrpc::client::{CallOptions, ServerStream};
use proto::hostagent::v1::__buffa::view::WatchSandboxesResponseView;

use super::{HostAgent, HostError};

/// Tells of changes for as long as the host can be heard.
pub struct Changes(ServerStream<Body, WatchSandboxesResponseView<'static>>);

impl HostAgent {
    /// Listens for changes of any sandbox's state. What changed before counts as one.
    pub async fn watch(&self) -> Result<Changes, HostError> {
        let stream = self.host.watch_sandboxes_with_options(Default::default(), CallOptions::default()).await?;
        Ok(Changes(stream))
    }
}

impl Changes {
    /// Waits for the next; false when the host has ended the stream.
    pub async fn next(&mut self) -> Result<bool, HostError> {
        Ok(self.0.message().await?.is_some())
    }
}
