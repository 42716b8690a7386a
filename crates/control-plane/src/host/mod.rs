//! The host agent as the control plane calls it: lifecycle and exec by RPC, bytes of guests by HTTP streams.
//!
//! Generated messages end here. Every call has a deadline or ends with the caller, except where the caller asked for
//! none. Writes no records, and knows nothing of what is legal in which state.

mod calls;
mod carrier;
mod connection;
mod directory;
mod disk;
mod error;
mod files;
mod guest;
mod network;
mod ports;
mod process;
mod processes;
mod snapshots;
mod watch;

use std::time::Duration;

use connectrpc::client::{ClientConfig, Http2Connection, ServiceTransport};
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use proto::hostagent::v1::{HostAgentServiceClient, HostServiceClient};

use crate::config::HostAgentAddress;
use crate::metrics::Metrics;
use carrier::Carrier;
use connection::{Connector, Protocol};

pub use calls::{Collected, HostSandbox, RunLimit};
pub use carrier::{InProcess, in_process};
pub use directory::{Entry, EntryKind};
pub use disk::{DiskUse, DryRun};
pub use error::HostError;
pub use files::file_body;
pub use network::HostNetwork;
pub use process::{GuestProcess, ProcessEvent, ProcessSpec, Replay, Selector, TerminalSize};
pub use processes::{ProcessInfo, Signal, TerminalInput};
pub use snapshots::HostSnapshot;

/// Calls that may wait for one connection at once.
const CALLS_WAITING: usize = 1024;

/// What one reply to `Exec` may hold.
const MAX_REPLY: usize = 64 << 20;

type StreamClient = Client<Connector, connectrpc::client::ClientBody>;

/// One host agent; cheap to clone.
#[derive(Clone)]
pub struct HostAgent {
    sandboxes: HostAgentServiceClient<Carrier>,
    host: HostServiceClient<Carrier>,
    /// Streams have connections of their own: a slow reader of one holds up nothing else.
    streams: StreamClient,
    base: Uri,
    metrics: Metrics,
}

impl HostAgent {
    /// The host agent at `address`. Nothing is connected before the first call, and a lost connection is made anew.
    ///
    /// Must be called within a runtime.
    pub fn new(address: &HostAgentAddress, metrics: Metrics) -> Self {
        let base = match address {
            HostAgentAddress::Unix(_) => Uri::from_static("http://localhost"),
            HostAgentAddress::Http(uri) | HostAgentAddress::Https(uri, _) => uri.clone(),
        };
        let calls = Http2Connection::builder()
            .establishment_timeout(Duration::from_secs(5))
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20))
            .lazy_with_connector(connection::connector(address, Protocol::Http2), base.clone())
            .shared(CALLS_WAITING);
        Self::by(Carrier::Connection(calls), base, address, metrics)
    }

    /// A host agent in this process, whose calls are carried by somebody else. Guests cannot be reached by it.
    pub fn in_process(calls: InProcess, metrics: Metrics) -> Self {
        let nowhere = HostAgentAddress::Unix(Default::default());
        Self::by(Carrier::InProcess(calls), Uri::from_static("http://localhost"), &nowhere, metrics)
    }

    fn by(calls: Carrier, base: Uri, address: &HostAgentAddress, metrics: Metrics) -> Self {
        let config = ClientConfig::new(base.clone()).with_default_max_message_size(MAX_REPLY);
        let streams = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .build(connection::connector(address, Protocol::Http1));
        Self {
            sandboxes: HostAgentServiceClient::new(calls.clone(), config.clone()),
            host: HostServiceClient::new(calls, config),
            streams,
            base,
            metrics,
        }
    }

    fn stream_transport(&self) -> ServiceTransport<StreamClient> {
        ServiceTransport::new(self.streams.clone())
    }

    /// Where the host agent serves a sandbox's guest: `path` begins with a slash.
    fn guest_uri(&self, sandbox: &model::SandboxId, path: &str) -> Result<Uri, HostError> {
        self.sandbox_uri(sandbox, &format!("/guest{path}"))
    }

    /// Where the host agent serves what is of one sandbox: `path` begins with a slash.
    fn sandbox_uri(&self, sandbox: &model::SandboxId, path: &str) -> Result<Uri, HostError> {
        let path = format!("/sandboxes/{sandbox}{path}");
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.try_into().map_err(HostError::address)?);
        Uri::from_parts(parts).map_err(HostError::address)
    }
}
