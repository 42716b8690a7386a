//! What can go wrong between a caller and the server, told so that the reader knows what to do.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

type BoxError = Box<dyn StdError + Send + Sync>;

/// A text that is no server's address.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is not the address of a server: write it like http://127.0.0.1:8080 (--url or SANDPIPER_URL)")]
pub struct BadUrl {
    /// What was given.
    pub url: String,
    #[source]
    source: BoxError,
}

/// A text that cannot be an API key. It is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API key has characters that no key has (--api-key or SANDPIPER_API_KEY)")]
pub struct BadKey;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nothing listens at the address.
    #[error("no server at {base}: start one with `sandpiper up`, or set SANDPIPER_URL")]
    Connect {
        /// The server's address.
        base: String,
        /// Why the connection was not made.
        #[source]
        source: BoxError,
    },
    /// The server took too long.
    #[error("{action}: the server at {base} did not answer within {} s", limit.as_secs())]
    Timeout {
        /// What was asked for.
        action: &'static str,
        /// The server's address.
        base: String,
        /// How long the client waited.
        limit: Duration,
    },
    /// The connection ended before the answer did.
    #[error("{action}: the connection to {base} broke off")]
    BrokeOff {
        /// What was asked for.
        action: &'static str,
        /// The server's address.
        base: String,
        /// What the transport says.
        #[source]
        source: BoxError,
    },
    /// The answer does not follow the contract.
    #[error("{action}: the answer is not a Sandpiper server's; check --url or SANDPIPER_URL")]
    Answer {
        /// What was asked for.
        action: &'static str,
        /// Where the answer differs.
        #[source]
        source: BoxError,
    },
    /// What was to be uploaded cannot be read.
    #[error("the data to upload cannot be read")]
    Upload(#[source] BoxError),
    /// The server ended a command's stream with a message instead of an exit code.
    #[error("{0}")]
    Command(String),
}

impl Error {
    /// Whether the server could not be spoken with, so that the same may work again later.
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::BrokeOff { .. } => true,
            Self::Api(error) => error.status == 503,
            Self::Answer { .. } | Self::Upload(_) | Self::Command(_) => false,
        }
    }
}

/// The server's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The contract's code, such as `not_found`; empty when the answer had none.
    pub code: String,
    /// For people.
    pub message: String,
    /// To be found in the server's log.
    pub request_id: Option<String>,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}", self.message, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        // Who reads of a refused request needs no log; who reads of a failure does.
        if let (500.., Some(id)) = (self.status, &self.request_id) {
            write!(f, ", request {id}")?;
        }
        f.write_str("]")
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorMember,
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct ErrorMember {
    code: String,
    message: String,
}

impl ApiError {
    /// From a response that is no success. A body that is not the contract's (a proxy's page, say) is quoted in short.
    pub(crate) fn from_response(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { error, request_id }) => {
                Self { status, code: error.code, message: error.message, request_id }
            }
            Err(_) => Self { status, code: String::new(), message: quote(status, body), request_id: None },
        }
    }
}

fn quote(status: u16, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
    if text.is_empty() { format!("the server answered {status} without a message") } else { text }
}

impl BadUrl {
    pub(crate) fn new(url: &str, source: impl Into<BoxError>) -> Self {
        Self { url: url.to_owned(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_error_body_is_understood() {
        let body = br#"{"error":{"code":"not_found","message":"sandbox not found"},"request_id":"r1","partial":{}}"#;
        let error = ApiError::from_response(404, body);
        assert_eq!((error.code.as_str(), error.request_id.as_deref()), ("not_found", Some("r1")));
        assert_eq!(error.to_string(), "sandbox not found [404 not_found]");
        assert_eq!(
            ApiError { status: 502, ..error }.to_string(),
            "sandbox not found [502 not_found, request r1]",
            "a failure names the request"
        );
    }

    #[test]
    fn any_other_body_is_quoted_in_short() {
        assert_eq!(ApiError::from_response(404, b"404 page not found\n").to_string(), "404 page not found [404]");
        assert_eq!(ApiError::from_response(405, b"").message, "the server answered 405 without a message");
        assert!(ApiError::from_response(500, &[b'<'; 100_000]).to_string().len() < 300);
    }
}
