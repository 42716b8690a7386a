//! What a control plane is told at its start. Knows nothing of flags, environment or files: the binary fills it in.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::Domain;
use crate::retention::RetentionPolicy;
use crate::store_url::StoreUrl;
use crate::tls::Tls;
use crate::token_key::TokenKey;

/// Everything that a control plane needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the records are.
    pub store: StoreUrl,
    /// What tokens are sealed with there.
    pub token_key: TokenKey,
    /// How the host agent is reached.
    pub host_agent: HostAgentAddress,
    /// What one request may use.
    pub limits: Limits,
    /// Names in a Host header that are accepted beside loopback and the listen address.
    pub allowed_hosts: Vec<String>,
    /// Whose names are the API's and the sandboxes', if there is one.
    pub domain: Option<Domain>,
    /// How often records are compared with the host.
    pub reconcile_interval: Duration,
    /// How long a host keeps a sandbox that no record wants.
    pub orphan_grace: Duration,
    /// How long what is on its way may be so while other control planes may be working on it: longer than any call takes.
    pub given_up_after: Duration,
    /// How long a host may be silent before its sandboxes are missing.
    pub missing_after: Duration,
    /// What is kept for its owner, and for how long.
    pub retention: RetentionPolicy,
    /// How long requests and lifecycle work under way may go on after a shutdown was asked for.
    pub drain: Duration,
    /// How long clients may take.
    pub patience: ClientPatience,
    /// How long guests may take for the beginning of an answer that is passed on as it is.
    pub guest_patience: GuestPatience,
}

/// Where the host agent listens.
#[derive(Debug, Clone)]
pub enum HostAgentAddress {
    /// A unix socket on this machine.
    Unix(PathBuf),
    /// `http://host:port`, on this machine.
    Http(http::Uri),
    /// `https://host:port`, and what the two show each other.
    Https(http::Uri, Tls),
}

/// How long clients may take for their part.
#[derive(Debug, Clone, Copy)]
pub struct ClientPatience {
    /// For the header of a request, from the connection's or the header's own beginning.
    pub header: Duration,
    /// Between two pieces of a request's body.
    pub body: Duration,
    /// Until something of an answer is taken. A WebSocket's client may take as long as it likes.
    pub answer: Duration,
    /// Between two requests on one connection. Longer than proxies and E2B's SDKs (five minutes) keep theirs, so that none
    /// of them sends into a connection that is being closed.
    pub idle: Duration,
    /// Between two signs of life to the client of a WebSocket, or of HTTP/2.
    pub ping: Duration,
}

impl Default for ClientPatience {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(330),
            ping: Duration::from_secs(30),
        }
    }
}

/// How long a guest may neither answer nor take anything of a request.
#[derive(Debug, Clone, Copy)]
pub struct GuestPatience {
    /// Its guest agent, for what is answered at once.
    pub agent: Duration,
    /// Its guest agent, for what is answered when it is done, and what listens at another of its ports. E2B waits for so
    /// long.
    pub service: Duration,
}

impl Default for GuestPatience {
    fn default() -> Self {
        Self { agent: Duration::from_secs(60), service: Duration::from_secs(610) }
    }
}

/// Bounds on what one request may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a JSON body.
    pub json_body: usize,
    /// Bytes of one uploaded file; the multipart framing around it does not count.
    pub upload: u64,
    /// How long the work on a capsule may take before its client is told how far it is.
    pub capsule_answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { json_body: 2 << 20, upload: 100 << 20, capsule_answer: Duration::from_secs(20) }
    }
}

impl Config {
    /// A configuration with the defaults for everything that has one.
    pub fn new(store: StoreUrl, token_key: TokenKey, host_agent: HostAgentAddress) -> Self {
        Self {
            store,
            token_key,
            host_agent,
            limits: Limits::default(),
            allowed_hosts: Vec::new(),
            domain: None,
            reconcile_interval: Duration::from_secs(30),
            orphan_grace: Duration::from_secs(60),
            given_up_after: Duration::from_secs(300),
            missing_after: Duration::from_secs(90),
            retention: RetentionPolicy::default(),
            drain: Duration::from_secs(30),
            patience: ClientPatience::default(),
            guest_patience: GuestPatience::default(),
        }
    }
}
