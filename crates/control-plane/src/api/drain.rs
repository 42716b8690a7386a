//! A server's end: what was asked before it is answered, what is asked after it is refused.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONNECTION;
use http::{HeaderValue, StatusCode, Version};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use crate::listen::body::Guarded;

/// What the middleware goes by.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Set when nothing new is begun.
    pub asked: CancellationToken,
    /// Set when what is under way has had its time.
    pub over: CancellationToken,
    /// Counts requests, among other things that must come to their end.
    pub tasks: TaskTracker,
}

/// The middleware.
pub async fn admit(State(drain): State<Drain>, request: Request, next: Next) -> Response {
    // Before the look at the token: whoever waits for the tasks after it was set also waits for this one.
    let guard = drain.tasks.token();
    let version = request.version();
    if drain.asked.is_cancelled() {
        return stopping(version);
    }
    tokio::select! {
        response = next.run(request) => response.map(|body| Body::new(Guarded::new(body, guard))),
        () = drain.over.cancelled() => stopping(version),
    }
}

fn stopping(version: Version) -> Response {
    let message = "the server is shutting down";
    let mut response = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).into_response();
    if version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
