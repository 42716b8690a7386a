//! What can go wrong with a call to the host agent, with its code kept for whoever answers a client.

use connectrpc::{ConnectError, ErrorCode};

/// A guest can put what it likes into a message; nobody reads more than this of one.
const MAX_MESSAGE: usize = 4000;

/// The detail of an error that says so.
const TEMPLATE_BUILDING: &str = "hostagent.v1.TemplateBuilding";

/// A call to the host agent that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HostError {
    /// It could not be reached, or the connection broke: what it did is unknown.
    #[error("the host agent does not answer")]
    Unreachable(#[source] ConnectError),
    /// It will be able to do it once the template is built that it is building.
    #[error("{0}")]
    Building(String),
    /// It answered with an error, or not in time.
    #[error("{}: {message}", code.as_str())]
    Answered {
        /// What kind of error.
        code: ErrorCode,
        /// Its text, bounded.
        message: String,
    },
}

impl HostError {
    /// An error of `code`; the text is cut to what a person reads.
    pub fn answered(code: ErrorCode, message: &str) -> Self {
        Self::Answered { code, message: bounded(message) }
    }

    /// A stream to the host agent that could not be opened or broke.
    pub fn stream(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreachable(ConnectError::unavailable_from_transport("guest stream", error))
    }

    /// An address of ours that is no URI.
    pub fn address(error: impl std::fmt::Display) -> Self {
        Self::answered(ErrorCode::Internal, &format!("no address for the guest stream: {error}"))
    }

    /// The code of the answer, if there was one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Unreachable(_) => None,
            Self::Building(_) => Some(ErrorCode::Unavailable),
            Self::Answered { code, .. } => Some(*code),
        }
    }

    /// One word for figures, out of a small set.
    pub fn reason(&self) -> &'static str {
        self.code().map_or("unreachable", |code| code.as_str())
    }

    /// Whether the host agent said that it has no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(ErrorCode::NotFound)
    }

    /// Whether the template is still being built.
    pub fn is_building(&self) -> bool {
        matches!(self, Self::Building(_))
    }

    /// Whether it took too long, by the host agent's clock or by ours.
    pub fn is_timeout(&self) -> bool {
        self.code() == Some(ErrorCode::DeadlineExceeded)
    }

    /// Whether nobody can say what the host agent did, or is still doing.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unreachable(_)) || self.is_timeout()
    }

    /// Whether the host agent turned a request down before it did anything: the request was wrong, or there is no
    /// room. Everything else may have left something half done.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.code(),
            Some(
                ErrorCode::NotFound
                    | ErrorCode::InvalidArgument
                    | ErrorCode::OutOfRange
                    | ErrorCode::AlreadyExists
                    | ErrorCode::FailedPrecondition
                    | ErrorCode::PermissionDenied
                    | ErrorCode::ResourceExhausted
                    | ErrorCode::Unavailable
                    | ErrorCode::Unimplemented
            )
        )
    }
}

fn bounded(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

impl From<ConnectError> for HostError {
    fn from(error: ConnectError) -> Self {
        // Only what the transport itself says carries a source; an answer from the other side is code and text.
        let is_transport = error.code == ErrorCode::Unavailable && error.source_arc().is_some();
        if is_transport {
            return Self::Unreachable(error);
        }
        let message = error.message.as_deref().unwrap_or("no message");
        if error.details.iter().any(|detail| detail.type_url == TEMPLATE_BUILDING) {
            return Self::Building(bounded(message));
        }
        Self::answered(error.code, message)
    }
}
