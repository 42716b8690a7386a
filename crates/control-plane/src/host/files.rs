//! Files of guests, streamed through the host agent. No file is ever held in memory whole.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::{ClientBody, full_body};
use connectrpc::{ConnectError, ErrorCode};
use futures::{Stream, TryStreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::Incoming;
use model::SandboxId;
use serde::Deserialize;

use super::{HostAgent, HostError};

/// How long the host agent and the guest may take to begin an answer after the last byte of the request.
const ANSWER: Duration = Duration::from_secs(60);

/// How much of an error's body is read.
const MAX_ERROR_BODY: usize = 16 << 10;

/// A file on its way into a guest.
pub type FileBody = ClientBody;

/// A body from chunks. An error in the stream breaks the request off, so that the guest does not take a part for
/// the whole.
pub fn file_body<E>(chunks: impl Stream<Item = Result<Bytes, E>> + Send + Sync + 'static) -> FileBody
where
    E: std::fmt::Display,
{
    let frames = chunks.map_ok(Frame::data).map_err(|error| ConnectError::canceled(error.to_string()));
    StreamBody::new(frames).boxed()
}

impl HostAgent {
    /// Writes a file. `all_sent` resolves when the body has ended: from then on the answer has a deadline.
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        body: FileBody,
        all_sent: impl Future<Output = ()>,
    ) -> Result<(), HostError> {
        let request = self.file_request(Method::POST, id, path, body)?;
        let answer = self.streams.request(request);
        tokio::pin!(answer);
        let answer = tokio::select! {
            answer = &mut answer => answer,
            () = all_sent => in_time(&mut answer).await?,
        };
        accept(answer.map_err(HostError::stream)?).await?;
        Ok(())
    }

    /// Opens a file for reading. Its bytes follow as the answer's body.
    pub async fn read_file(&self, id: &SandboxId, path: &str) -> Result<Response<Incoming>, HostError> {
        let request = self.file_request(Method::GET, id, path, full_body(Bytes::new()))?;
        let answer = in_time(self.streams.request(request)).await?;
        accept(answer.map_err(HostError::stream)?).await
    }

    fn file_request(
        &self,
        method: Method,
        id: &SandboxId,
        path: &str,
        body: FileBody,
    ) -> Result<Request<FileBody>, HostError> {
        Request::builder()
            .method(method)
            .uri(self.guest_uri(id, &format!("/files?path={}", percent_encoded(path)))?)
            .header(http::header::CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .map_err(HostError::address)
    }
}

pub(super) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, HostError> {
    let late = |_| HostError::answered(ErrorCode::DeadlineExceeded, "the guest does not answer");
    tokio::time::timeout(ANSWER, answer).await.map_err(late)
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// An error's body. The host agent's own have a Connect code's name, a guest's have a number.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: String,
}

pub(super) async fn accept(answer: Response<Incoming>) -> Result<Response<Incoming>, HostError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), MAX_ERROR_BODY).collect();
    let body = match tokio::time::timeout(ANSWER, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => Bytes::new(),
    };
    let body = serde_json::from_slice(&body)
        .unwrap_or(ErrorBody { code: serde_json::Value::Null, message: format!("HTTP status {status}") });
    let code = body.code.as_str().and_then(|name| name.parse().ok()).unwrap_or_else(|| guest_code(status));
    Err(HostError::answered(code, &body.message))
}

fn guest_code(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        // 401 is an unknown user: the caller's mistake, not ours.
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED => ErrorCode::InvalidArgument,
        StatusCode::FORBIDDEN => ErrorCode::PermissionDenied,
        StatusCode::INSUFFICIENT_STORAGE => ErrorCode::ResourceExhausted,
        _ => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_query_parameter() {
        assert_eq!(percent_encoded("/a b/ü?x=1&y#z%41+"), "/a%20b/%C3%BC%3Fx%3D1%26y%23z%2541%2B");
    }
}
