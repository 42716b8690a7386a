//! The host's side of the conversation with the agent inside a guest: plain HTTP and Connect over TCP, opened in the
//! sandbox's namespace. Knows nothing of sandboxes' states.
//!
//! Every byte that comes back is hostile: sizes and times are bounded here, and nothing of it becomes a path, a
//! command or a log line of the host.

mod capture;
mod direct;
mod error;
mod exec;
mod files;
mod ports;
mod start;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};

use crate::net::GuestConnector;
pub use direct::DirectError;
pub use error::{FileError, GuestError, ReadyError};
pub use exec::{ExecError, ExecOutput, ExecRequest, OUTPUT_LIMIT};
pub use files::READ_LIMIT;
pub use ports::PortError;
pub use start::StartError;
use transport::Transport;

/// The guest agent's port.
pub const PORT: u16 = 49983;

/// The longest body of an answer to one of our own small questions.
const ANSWER_LIMIT: usize = 64 * 1024;

/// A guest that is up answers its small questions in milliseconds; this is for one that is not, or will not.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Between two tries to reach a guest that boots.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// How long a guest that is up takes at most to accept a connection, on any host that is not hopelessly busy.
const READY_DEADLINE: Duration = Duration::from_millis(40);

/// The agent inside one guest. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Guest {
    transport: Transport,
    connector: GuestConnector,
    access_token: AccessToken,
    idle: direct::Idle,
}

/// What a guest asks of those who call it. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken(Arc<str>);

impl AccessToken {
    /// 128 random bits.
    fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel has randomness");
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    fn header(&self) -> HeaderValue {
        // One that was read from a damaged file is no guest's.
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("none"))
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

/// What a guest is told after each start.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The sandbox's id.
    pub sandbox_id: String,
    /// The template's name.
    pub template_id: String,
    /// The guest's host name.
    pub hostname: String,
    /// Environment of every process.
    pub env_vars: BTreeMap<String, String>,
    /// The user of processes that name none.
    pub default_user: String,
    /// Their working directory, where the template has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// The host's wall clock, RFC 3339.
    pub timestamp: String,
    /// Whom its programs are to believe beside those whom they do, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// What it is to take for the id of its kernel's boot from now on: for a guest whose twin may have read that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

impl Guest {
    /// Connects nowhere yet. The access token is new: the guest learns it when it is introduced.
    pub fn new(connector: GuestConnector) -> Self {
        Self::known(connector, AccessToken::random())
    }

    /// One that knows its access token already. Connects nowhere yet.
    pub fn known(connector: GuestConnector, access_token: AccessToken) -> Self {
        let transport = Transport::new(connector.clone(), access_token.header());
        Self { transport, connector, access_token, idle: direct::Idle::default() }
    }

    /// What it is to be asked with.
    pub fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    /// The same guest, by the same connections, with a new access token: it learns it when it is restored.
    pub fn renewed(&self) -> Self {
        let access_token = AccessToken::random();
        Self { transport: self.transport.with_token(access_token.header()), access_token, ..self.clone() }
    }

    /// Waits until the agent answers.
    pub async fn wait_until_ready(&self, limit: Duration) -> Result<(), ReadyError> {
        let answers = async {
            let mut interval = tokio::time::interval(READY_INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !self.is_ready().await {
                interval.tick().await;
            }
        };
        tokio::time::timeout(limit, answers).await.map_err(|_| ReadyError { limit })
    }

    /// A guest whose network is not up swallows what asks for a connection, so each try is short.
    async fn is_ready(&self) -> bool {
        if self.connector.connect(PORT, READY_DEADLINE).await.is_err() {
            return false;
        }
        let probe = self.request(Method::GET, "/health", Body::empty());
        matches!(tokio::time::timeout(ANSWER_DEADLINE, probe).await, Ok(Ok(response)) if response.status().is_success())
    }

    /// Tells a guest who it is. Until then it answers nobody.
    pub async fn introduce(&self, identity: &Identity) -> Result<(), GuestError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Introduction<'a> {
            access_token: &'a str,
            #[serde(flatten)]
            identity: &'a Identity,
        }
        let introduction = Introduction { access_token: &self.access_token.0, identity };
        let body = serde_json::to_vec(&introduction).expect("an introduction is plain data");
        self.ask(Method::POST, "/init", body.into()).await.map(drop)
    }

    /// Tells a guest the time as it is now. Small differences it makes up for slowly.
    pub async fn set_clock(&self) -> Result<(), GuestError> {
        let body = serde_json::json!({ "timestamp": jiff::Timestamp::now().to_string() });
        self.ask(Method::POST, "/clock", body.to_string().into()).await.map(drop)
    }

    /// Memory that the guest says it has in use, in bytes.
    pub async fn memory_used(&self) -> Result<u64, GuestError> {
        #[derive(serde::Deserialize)]
        struct Metrics {
            mem_used: u64,
        }
        let answer = self.ask(Method::GET, "/metrics", Bytes::new()).await?;
        let metrics: Metrics = serde_json::from_slice(&answer).map_err(|_| GuestError::Garbled)?;
        Ok(metrics.mem_used)
    }

    /// Times `count` runs of a program inside the guest, by the guest's own clock; the answer is the guest's JSON.
    pub async fn benchmark_spawn(&self, count: u32) -> Result<Bytes, GuestError> {
        self.ask(Method::GET, &format!("/benchmark/spawn?count={count}&cmd=/bin/true"), Bytes::new()).await
    }

    /// Passes a request on and its answer back, both as streams. The caller decides which paths may be asked for.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, GuestError> {
        self.transport.send(request).await.map_err(GuestError::Unreachable)
    }

    /// A small question with a small answer.
    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, GuestError> {
        let answer = async {
            let response = self.request(method, path, Full::new(body).into_body()).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT);
            let body = body.collect().await.map_err(|_| GuestError::Garbled)?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(GuestError::refused(status, &body)) }
        };
        tokio::time::timeout(ANSWER_DEADLINE, answer).await.map_err(|_| GuestError::Silent)?
    }

    async fn request(&self, method: Method, path: &str, body: Body) -> Result<Response<Body>, GuestError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path.parse::<Uri>().map_err(|_| GuestError::Garbled)?;
        if path == "/init" {
            request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.transport.send(request).await.map_err(GuestError::Unreachable)
    }
}

/// Bodies of one piece as the streaming kind.
trait IntoBody {
    fn into_body(self) -> Body;
}

impl IntoBody for Full<Bytes> {
    fn into_body(self) -> Body {
        Body::new(self)
    }
}
