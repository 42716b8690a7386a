//! What can go wrong between host and guest.

use std::time::Duration;

use http::StatusCode;

/// Why a guest did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// No connection, or it broke.
    #[error("the guest agent cannot be reached")]
    Unreachable(#[source] super::transport::TransportError),
    /// No answer in time.
    #[error("the guest agent did not answer in time")]
    Silent,
    /// The conversation with a guest that goes on ended early.
    #[error("the guest agent hung up")]
    Broken(#[source] std::io::Error),
    /// An answer that is none.
    #[error("the guest agent's answer cannot be understood")]
    Garbled,
    /// It could not become what it was to be, in the guest's words.
    #[error("the guest could not be made right: {0}")]
    NotRestored(String),
    /// A refusal, in the guest's words.
    #[error("the guest agent refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// Bounded and printable.
        message: String,
    },
}

/// A guest that never answered.
#[derive(Debug, thiserror::Error)]
#[error("the guest did not answer within {} seconds", limit.as_secs())]
pub struct ReadyError {
    /// How long it was given.
    pub limit: Duration,
}

/// Why a file could not be read or written whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is not there.
    #[error("{0}")]
    NotFound(String),
    /// It is not a regular file, or the path is no path.
    #[error("{0}")]
    BadPath(String),
    /// The user may not.
    #[error("{0}")]
    Forbidden(String),
    /// The guest's disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// More than one message can carry.
    #[error("the file is larger than {0} bytes; read it through the guest stream /files instead")]
    TooLarge(usize),
    /// Anything else.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

impl GuestError {
    /// From an error answer: a JSON object with a `message`, by the guest's contract.
    pub(super) fn refused(status: StatusCode, body: &[u8]) -> Self {
        Self::Refused { status, message: message_of(body) }
    }

    pub(super) fn not_restored(words: &str) -> Self {
        Self::NotRestored(printable(words))
    }
}

impl FileError {
    pub(super) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        let message = message_of(body);
        match status {
            StatusCode::NOT_FOUND => Self::NotFound(message),
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => Self::BadPath(message),
            StatusCode::FORBIDDEN => Self::Forbidden(message),
            StatusCode::INSUFFICIENT_STORAGE => Self::NoSpace(message),
            _ => Self::Guest(GuestError::Refused { status, message }),
        }
    }
}

/// The guest's words, cut and without control characters.
fn message_of(body: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(body).ok();
    let text = json.as_ref().and_then(|json| json["message"].as_str()).map(str::to_owned);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned());
    printable(&text)
}

pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(1024).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_words_are_bounded_and_printable() {
        assert_eq!(message_of(br#"{"code":404,"message":"no \u001b[2Jfile"}"#), "no [2Jfile");
        assert_eq!(message_of(&[b'x'; 100_000]).len(), 1024);
        assert_eq!(message_of(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }
}
