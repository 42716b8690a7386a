//! Calls to a guest agent that are passed on as they are, through the host agent.

use std::sync::{Mutex, PoisonError};

use axum::body::{Body, BodyDataStream};
use futures::{Stream, StreamExt};
use http::{HeaderName, Request, Response};
use hyper::body::Incoming;
use model::SandboxId;

use super::files::{accept, file_body};
use super::{HostAgent, HostError};

/// Every answer of a guest agent has it, and none of a host agent.
const ANSWERED_BY_GUEST: HeaderName = HeaderName::from_static("x-envd-version");

impl HostAgent {
    /// Passes a request to a guest agent and answers with whatever that does. Neither has a deadline here: the caller has
    /// one for the beginning of the answer, and its own caller's patience is what counts for the rest.
    pub async fn call_guest(&self, id: &SandboxId, request: Request<Body>) -> Result<Response<Incoming>, HostError> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = self.guest_uri(id, path)?;
        let body = file_body(shared(body.into_data_stream()));
        let answer = self.streams.request(Request::from_parts(parts, body)).await.map_err(HostError::stream)?;
        if answer.headers().contains_key(ANSWERED_BY_GUEST) {
            return Ok(answer);
        }
        let answer = accept(answer).await?;
        Err(HostError::stream(format!("a guest was called and the host agent answered {}", answer.status())))
    }
}

/// The client's bodies may be looked at from several threads, though only one ever does.
fn shared(stream: BodyDataStream) -> impl Stream<Item = Result<bytes::Bytes, axum::Error>> + Send + Sync + 'static {
    let stream = Mutex::new(stream);
    futures::stream::poll_fn(move |context| {
        stream.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    })
}
