//! The last step of every failure: which status, code and text a client sees.
//!
//! Texts of the host agent go out, because they say what the caller can do; those of the database stay in the log.

use axum::response::{IntoResponse, Response};
use connectrpc::ErrorCode;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use model::{Event, IllegalTransition, Status};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::host::HostError;
use crate::lifecycle::{LifecycleError, SnapshotError};
use crate::store::StoreError;

/// When what is not possible now may be asked for again.
const RETRY_SECONDS: &str = "1";

/// What is wrong, for programs and for people.
#[derive(Serialize, ToSchema)]
pub struct ErrorDetail<'a> {
    /// For programs; the list is in docs/api.md.
    #[schema(example = "not_found")]
    code: &'a str,
    /// For people.
    #[schema(example = "sandbox not found")]
    message: &'a str,
    /// Which limit of time was reached; absent where none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<TimeLimit>,
}

/// A limit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeLimit {
    /// For a connection to the host; or it broke.
    Connect,
    /// For more to come from someone who is connected.
    Idle,
    /// A command's own, which it was started with.
    Exec,
    /// The sandbox's own: it was not used for so long.
    Lifetime,
}

/// The body of every error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorAnswer<'a> {
    error: ErrorDetail<'a>,
    /// What a command printed that took too long; absent elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<&'a Partial>,
    /// The request's id, as in the header `X-Request-Id`.
    request_id: &'a str,
}

/// What a command printed before it was killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = PartialOutput)]
pub struct Partial {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// `utf-8`, or `base64` where either stream is not text.
    pub encoding: String,
    /// Bytes beyond the limit, which are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_omitted: Option<u64>,
    /// Bytes beyond the limit, which are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_omitted: Option<u64>,
}

/// An answer that is an error. Its body is written by [`super::request::identify`], which knows the request's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    timeout: Option<TimeLimit>,
    /// Boxed: few errors have it.
    partial: Option<Box<Partial>>,
}

impl ApiError {
    /// An error of any kind.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), timeout: None, partial: None }
    }

    /// The request makes no sense.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// The caller has no such sandbox.
    pub fn no_sandbox() -> Self {
        Self::not_found("sandbox not found")
    }

    /// The caller has no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Not while the sandbox is in its present state.
    pub fn invalid_state(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_state", message)
    }

    /// Another request won.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// Not as long as the server is starting.
    pub fn starting(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message)
    }

    /// The request has more bytes than it may.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// Something took too long: 408 where it was the client's, 504 where not.
    pub fn timeout(status: StatusCode, limit: TimeLimit, message: impl Into<String>) -> Self {
        Self { timeout: Some(limit), ..Self::new(status, "timeout", message) }
    }

    /// A command was killed because it took too long.
    pub fn exec_timeout(message: impl Into<String>, partial: Partial) -> Self {
        let error = Self::timeout(StatusCode::GATEWAY_TIMEOUT, TimeLimit::Exec, message);
        Self { partial: Some(Box::new(partial)), ..error }
    }

    /// A fault of ours; `error` goes to the log only.
    fn internal(code: &'static str, message: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, code, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, message)
    }

    /// What kind of error, for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What is wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The body that a client sees.
    pub fn body(&self, request_id: &str) -> String {
        let error = ErrorDetail { code: self.code, message: &self.message, timeout: self.timeout };
        serde_json::to_string(&ErrorAnswer { error, partial: self.partial.as_deref(), request_id })
            .expect("texts are JSON")
            + "\n"
    }

    /// Another code for the same error, where clients know it by another name.
    pub fn rename(&mut self, name: impl FnOnce(&'static str) -> &'static str) {
        self.code = name(self.code);
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What a command had printed, where that is told.
    pub fn partial(&self) -> Option<&Partial> {
        self.partial.as_deref()
    }

    /// The text for a client of a stream, which has no status to look at.
    pub fn into_message(self) -> String {
        self.message
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            // Whatever it is, it passes.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_unreachable() {
            tracing::error!(error = &error as &dyn std::error::Error, "database unreachable");
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the database does not answer");
        }
        Self::internal("db_error", &error.to_string(), &error)
    }
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        let message = error.to_string();
        let Some(code) = error.code() else {
            tracing::warn!(error = &error as &dyn std::error::Error, "host agent unreachable");
            let unavailable = Self::new(StatusCode::SERVICE_UNAVAILABLE, "host_unavailable", message);
            return Self { timeout: Some(TimeLimit::Connect), ..unavailable };
        };
        if error.is_building() {
            return Self::starting(message);
        }
        let (status, code) = match code {
            ErrorCode::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            ErrorCode::AlreadyExists | ErrorCode::FailedPrecondition | ErrorCode::Aborted => {
                (StatusCode::CONFLICT, "conflict")
            }
            ErrorCode::InvalidArgument | ErrorCode::OutOfRange => (StatusCode::BAD_REQUEST, "invalid_request"),
            ErrorCode::PermissionDenied => (StatusCode::FORBIDDEN, "forbidden"),
            ErrorCode::ResourceExhausted => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            ErrorCode::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            ErrorCode::DeadlineExceeded => {
                return Self::timeout(StatusCode::GATEWAY_TIMEOUT, TimeLimit::Idle, message);
            }
            ErrorCode::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
            _ => (StatusCode::BAD_GATEWAY, "agent_error"),
        };
        Self::new(status, code, message)
    }
}

impl From<IllegalTransition> for ApiError {
    fn from(error: IllegalTransition) -> Self {
        let wanted = match error.event {
            Event::PauseRequested => Status::Running.as_str(),
            Event::ResumeRequested => Status::Paused.as_str(),
            Event::SnapshotRequested | Event::StopRequested => "running or paused",
            _ => return Self::internal("internal", "the sandbox is in a state that it cannot be in", &error),
        };
        Self::invalid_state(format!("sandbox is not {wanted} (status: {})", error.from))
    }
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let message = error.to_string();
        match error {
            SnapshotError::NotFound => Self::not_found(message),
            SnapshotError::NotReady { .. } => Self::invalid_state(message),
            SnapshotError::NameTaken { .. }
            | SnapshotError::NameOfTemplate { .. }
            | SnapshotError::Needed { .. }
            | SnapshotError::Replaced { .. } => Self::conflict(message),
        }
    }
}

impl From<LifecycleError> for ApiError {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::NotFound => Self::no_sandbox(),
            LifecycleError::NotRunning { ref reason, .. } => {
                let timeout = model::is_expiry(reason).then_some(TimeLimit::Lifetime);
                Self { timeout, ..Self::invalid_state(error.to_string()) }
            }
            LifecycleError::Snapshot(source) => source.into(),
            LifecycleError::Race(_) | LifecycleError::Deleted | LifecycleError::KeyReused => {
                Self::conflict(error.to_string())
            }
            LifecycleError::Illegal(source) => source.into(),
            LifecycleError::Host(source) => source.into(),
            LifecycleError::Store(source) => source.into(),
            LifecycleError::Interrupted(source) => Self::internal("internal", &source.to_string(), &source),
        }
    }
}
