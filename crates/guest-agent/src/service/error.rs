//! Errors as the wire contract writes them: an integer code on plain HTTP routes, a Connect code on the others.

use axum::response::{IntoResponse, Response};
use connectrpc::{ConnectError, ErrorCode};
use http::{StatusCode, header};

use crate::auth::Refusal;
use crate::files::FileError;
use crate::log;
use crate::process::{InputError, NoProcess, StartError};
use crate::users::LookupError;

/// An error of a plain HTTP route.
#[derive(Debug)]
pub struct HttpError {
    status: StatusCode,
    message: String,
}

impl HttpError {
    /// With a status and a text for the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The client's mistake.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The agent's own trouble.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, log::chain(error))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        // Written by hand: clients compare some of these bodies byte by byte, so the order of members counts.
        let message = serde_json::Value::String(self.message);
        let body = format!(r#"{{"code":{},"message":{message}}}"#, self.status.as_u16());
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, refusal.to_string())
    }
}

impl From<LookupError> for HttpError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Unknown(_) => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            LookupError::Read { .. } => Self::internal(&error),
        }
    }
}

impl From<FileError> for HttpError {
    fn from(error: FileError) -> Self {
        let status = match &error {
            FileError::Path(_)
            | FileError::NotADirectory(_)
            | FileError::IsADirectory(_)
            | FileError::NotRegular(_)
            | FileError::NetworkMount(_)
            | FileError::CyclicLink(_)
            | FileError::Metadata(_) => StatusCode::BAD_REQUEST,
            FileError::NotFound(_) => StatusCode::NOT_FOUND,
            FileError::AlreadyExists(_) => StatusCode::CONFLICT,
            FileError::PermissionDenied(_) => StatusCode::FORBIDDEN,
            FileError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
            FileError::TooManyWatches(_) => StatusCode::TOO_MANY_REQUESTS,
            FileError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, log::chain(&error))
    }
}

/// A file error of an RPC.
pub fn file_error(error: FileError) -> ConnectError {
    let text = log::chain(&error);
    match error {
        FileError::Path(_)
        | FileError::NotADirectory(_)
        | FileError::IsADirectory(_)
        | FileError::NotRegular(_)
        | FileError::NetworkMount(_)
        | FileError::Metadata(_) => ConnectError::invalid_argument(text),
        FileError::NotFound(_) => ConnectError::not_found(text),
        FileError::AlreadyExists(_) => ConnectError::already_exists(text),
        FileError::PermissionDenied(_) => ConnectError::permission_denied(text),
        FileError::CyclicLink(_) => ConnectError::failed_precondition(text),
        FileError::NoSpace(_) | FileError::TooManyWatches(_) => ConnectError::resource_exhausted(text),
        FileError::Io { .. } => ConnectError::internal(text),
    }
}

/// A user of an RPC that was not found.
pub fn lookup_error(error: LookupError) -> ConnectError {
    match error {
        LookupError::Unknown(_) => ConnectError::unauthenticated(error.to_string()),
        LookupError::Read { .. } => ConnectError::internal(log::chain(&error)),
    }
}

/// A process that was not started.
pub fn start_error(error: StartError) -> ConnectError {
    match error {
        StartError::User(error) => lookup_error(error),
        StartError::Command(_)
        | StartError::NoWorkingDirectory(_)
        | StartError::Terminal(_)
        | StartError::Spawn { .. } => ConnectError::invalid_argument(log::chain(&error)),
        StartError::Streams(_) | StartError::Interrupted => ConnectError::internal(log::chain(&error)),
    }
}

/// A process that is not there.
pub fn no_process(error: NoProcess) -> ConnectError {
    ConnectError::not_found(error.to_string())
}

/// Input that did not go in.
pub fn input_error(error: InputError) -> ConnectError {
    let text = log::chain(&error);
    match error {
        InputError::CannotClose => ConnectError::new(ErrorCode::Unknown, text),
        InputError::Closed
        | InputError::IsTerminal
        | InputError::NoTerminal
        | InputError::Write(_)
        | InputError::Resize(_) => ConnectError::internal(text),
    }
}
