//! How traffic is turned down: in the form and the words that the client knows, since client libraries look at both.

use axum::response::{Html, IntoResponse, Response};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, StatusCode};
use model::{SandboxId, Status};
use serde_json::json;

use super::signature::Unsigned;
use crate::host::HostError;
use crate::lifecycle::LifecycleError;
use crate::store::StoreError;

/// Why a request does not reach a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The name is of the server's domain, and nobody's.
    InvalidHost,
    /// No port can be called so.
    InvalidPort,
    /// No sandbox can be called so.
    InvalidId,
    /// One of the two headers is not there.
    MissingHeader,
    /// A tunnel to anywhere was asked for.
    Tunnel,
    /// The port is the guest agent's.
    Reserved,
    /// The guest agent has no such route for callers.
    NoRoute(String),
    /// The guest agent's callers show a token, and none came.
    NoToken,
    /// They do, and another one came.
    WrongToken,
    /// A file was asked for by an address that allows nothing.
    Unsigned(Unsigned),
    /// There is no such sandbox.
    NotFound,
    /// It is there and does not run.
    NotRunning(Status),
    /// It will run, or will not, in a moment that was too long.
    Transitioning,
    /// Nobody listens.
    PortClosed,
    /// Somebody listens and does not speak HTTP, or ended before the answer.
    NoAnswer,
    /// Somebody listens and neither answered nor took the request in time.
    Silent,
    /// The sandbox answers so many requests already.
    TooMany(usize),
    /// The sandbox is private, and no token came.
    TokenMissing,
    /// The sandbox is private, and another token came.
    TokenWrong,
    /// Its host, or its record, cannot be reached, or there is no room to wake it.
    Unavailable,
    /// The server ends.
    Stopping,
}

/// What a client understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Lines of text and statuses as the `wrenn` client has them; it sends its API key along.
    Text,
    /// JSON and statuses as clients of E2B have them.
    Json,
    /// The same for a person.
    Page,
}

impl Dialect {
    /// That of whoever sent these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if headers.contains_key("x-api-key") && !headers.contains_key("e2b-sandbox-id") {
            return Self::Text;
        }
        let accept = text(ACCEPT.as_str());
        let wants_json = accept.contains("json") && !accept.contains("html");
        let is_script = ["cors", "no-cors", "same-origin", "websocket"].contains(&text("sec-fetch-mode"))
            || headers.contains_key("x-requested-with");
        let is_browser = text(USER_AGENT.as_str()).starts_with("Mozilla/");
        if is_browser && !wants_json && !is_script { Self::Page } else { Self::Json }
    }
}

impl Refusal {
    fn status(&self, dialect: Dialect) -> StatusCode {
        match self {
            Self::InvalidHost | Self::InvalidPort | Self::InvalidId | Self::MissingHeader => StatusCode::BAD_REQUEST,
            Self::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
            Self::Reserved | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::NoToken | Self::WrongToken | Self::Unsigned(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound if dialect == Dialect::Text => StatusCode::NOT_FOUND,
            Self::NotRunning(_) if dialect == Dialect::Text => StatusCode::CONFLICT,
            Self::NotFound | Self::NotRunning(_) | Self::PortClosed | Self::NoAnswer => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
            Self::Transitioning => StatusCode::CONFLICT,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TokenMissing | Self::TokenWrong => StatusCode::FORBIDDEN,
            Self::Unavailable | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Clients search for some of these words.
    fn message(&self, dialect: Dialect) -> String {
        const SECURED: &str = "Sandbox is secured with traffic access token.";
        match self {
            Self::InvalidHost => "Invalid host".to_owned(),
            Self::InvalidPort => "Invalid sandbox port".to_owned(),
            Self::InvalidId => "Invalid sandbox ID".to_owned(),
            Self::MissingHeader => "missing header".to_owned(),
            Self::Tunnel => "CONNECT is not supported".to_owned(),
            Self::Reserved => "This port is reserved for the sandbox's own agent".to_owned(),
            Self::NoRoute(_) => "This endpoint is reserved for the sandbox's host".to_owned(),
            Self::NoToken => "missing access token".to_owned(),
            Self::WrongToken => "invalid access token".to_owned(),
            Self::Unsigned(Unsigned::Missing) => "missing signature query parameter".to_owned(),
            Self::Unsigned(Unsigned::Wrong) => "invalid signature".to_owned(),
            Self::Unsigned(Unsigned::Expired) => "signature is already expired".to_owned(),
            Self::NotRunning(status) if dialect == Dialect::Text => {
                format!("The sandbox is not running (status: {status})")
            }
            Self::NotFound | Self::NotRunning(_) => "The sandbox was not found".to_owned(),
            Self::Transitioning => "The sandbox is still transitioning. Try again in a moment.".to_owned(),
            Self::PortClosed => "The sandbox is running but port is not open".to_owned(),
            Self::NoAnswer => "The sandbox is running but the service at the port gave no HTTP answer".to_owned(),
            Self::Silent => "The sandbox is running but gave no answer in time".to_owned(),
            Self::TooMany(limit) => {
                format!("The sandbox has too many concurrent incoming connections (limit: {limit})")
            }
            Self::TokenMissing => format!("{SECURED} Token header '{}' is missing", super::TRAFFIC_TOKEN),
            Self::TokenWrong => {
                format!("{SECURED} Provided token in header '{}' is invalid", super::TRAFFIC_TOKEN)
            }
            Self::Unavailable => "The sandbox's host does not answer".to_owned(),
            Self::Stopping => "the server is shutting down".to_owned(),
        }
    }

    fn is_of_guest(&self) -> bool {
        matches!(self, Self::NoRoute(_) | Self::NoToken | Self::WrongToken | Self::Unsigned(_))
    }

    /// The answer. What could not even be read as a target is answered with a line, whoever asks.
    pub fn into_response(self, dialect: Dialect, target: Option<&(SandboxId, u16)>) -> Response {
        let (status, message) = (self.status(dialect), self.message(dialect));
        match (dialect, target) {
            // In the guest agent's own form, which clients compare byte by byte.
            _ if self.is_of_guest() => {
                let (message, code) = (json!(message), status.as_u16());
                let body = match self {
                    Self::NoRoute(path) => json!({"code": code, "message": message, "path": path}).to_string(),
                    _ => format!(r#"{{"code":{code},"message":{message}}}"#),
                };
                (status, [(CONTENT_TYPE, "application/json")], body).into_response()
            }
            (Dialect::Text, _) | (_, None) => (status, format!("{message}\n")).into_response(),
            (Dialect::Page, Some((id, port))) => (status, Html(page(status, &message, id, *port))).into_response(),
            (Dialect::Json, Some((id, port))) => {
                let mut body = json!({"sandboxId": id, "message": message, "code": status.as_u16()});
                match self {
                    Self::PortClosed | Self::NoAnswer | Self::Silent | Self::Reserved => body["port"] = json!(port),
                    Self::TooMany(limit) => body["connectionLimit"] = json!(limit),
                    _ => {}
                }
                (status, axum::Json(body)).into_response()
            }
        }
    }
}

/// Ids and messages hold nothing that HTML gives a meaning.
fn page(status: StatusCode, message: &str, id: &SandboxId, port: u16) -> String {
    format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{status}</title>\n<h1>{message}</h1>\n\
         <p>Sandbox {id}, port {port}.</p>\n"
    )
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the record of a sandbox cannot be read");
        Self::Unavailable
    }
}

impl From<LifecycleError> for Refusal {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::NotFound => Self::NotFound,
            LifecycleError::NotRunning { status, .. } => match status {
                Status::Pending | Status::Running | Status::Pausing | Status::Resuming | Status::Snapshotting => {
                    Self::Transitioning
                }
                _ => Self::NotRunning(status),
            },
            LifecycleError::Race(_) => Self::Transitioning,
            error => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a sandbox was not woken for its traffic");
                Self::Unavailable
            }
        }
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        use connectrpc::ErrorCode;
        match error.code() {
            Some(ErrorCode::Aborted) => Self::PortClosed,
            Some(ErrorCode::DeadlineExceeded) => Self::NoAnswer,
            Some(ErrorCode::NotFound) => Self::NotFound,
            // It has been paused or ended in this moment.
            Some(ErrorCode::FailedPrecondition) => Self::Transitioning,
            Some(ErrorCode::PermissionDenied) => Self::Reserved,
            _ => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection to a guest's port");
                Self::Unavailable
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_browsers() {
        let check = |headers: &[(&'static str, &str)], expect: Dialect| {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(Dialect::of(&map), expect, "{headers:?}");
        };
        let browser = ("user-agent", "Mozilla/5.0 (X11)");
        check(&[], Dialect::Json);
        check(&[("x-api-key", "k")], Dialect::Text);
        check(&[("x-api-key", "k"), ("e2b-sandbox-id", "sb1")], Dialect::Json);
        check(&[browser], Dialect::Page);
        check(&[browser, ("accept", "text/html,application/json")], Dialect::Page);
        check(&[browser, ("accept", "application/json")], Dialect::Json);
        check(&[browser, ("sec-fetch-mode", "navigate")], Dialect::Page);
        check(&[browser, ("sec-fetch-mode", "cors")], Dialect::Json);
        check(&[browser, ("x-requested-with", "x")], Dialect::Json);
    }

    #[test]
    fn each_client_gets_the_status_that_it_knows() {
        let statuses =
            |refusal: Refusal| [Dialect::Text, Dialect::Json].map(|dialect| refusal.status(dialect).as_u16());
        assert_eq!(statuses(Refusal::NotFound), [404, 502]);
        assert_eq!(statuses(Refusal::NotRunning(Status::Paused)), [409, 502]);
        assert_eq!(statuses(Refusal::PortClosed), [502, 502]);
        assert_eq!(statuses(Refusal::InvalidPort), [400, 400]);
        assert!(Refusal::NotRunning(Status::Paused).message(Dialect::Json).contains("was not found"));
        assert!(Refusal::PortClosed.message(Dialect::Json).contains("port is not open"));
    }
}
