//! The port's end: what has begun is finished, what comes after is refused.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use connectrpc::ConnectError;
use http::header;
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a port's end goes by. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    asked: CancellationToken,
    requests: TaskTracker,
}

impl Drain {
    /// Refuses what comes from now on, and waits for what has begun, but no longer than `patience`.
    pub async fn finish(&self, patience: Duration) {
        self.asked.cancel();
        self.requests.close();
        if tokio::time::timeout(patience, self.requests.wait()).await.is_err() {
            tracing::warn!("requests were cut short");
        }
    }

    /// Set when nothing new is begun: what would only wait ends.
    pub(super) fn asked(&self) -> CancellationToken {
        self.asked.clone()
    }
}

/// The middleware.
pub(super) async fn admit(State(drain): State<Drain>, request: Request, next: Next) -> Response {
    // Before the look at the token: whoever waits for the requests after it was set also waits for this one.
    let begun = drain.requests.token();
    if drain.asked.is_cancelled() {
        return stopping();
    }
    next.run(request).await.map(|body| Body::new(Holding::new(body, begun)))
}

/// Of this status and this body every protocol of the port makes its `unavailable`.
fn stopping() -> Response {
    let error = ConnectError::unavailable("the host agent is shutting down");
    (error.http_status(), [(header::CONTENT_TYPE, "application/json")], error.to_json()).into_response()
}

/// A body that holds something until it is sent or given up.
pub(super) struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T> Holding<T> {
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> http_body::Body for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http::StatusCode;
    use tower::ServiceExt;

    use super::*;

    async fn status(port: &Router) -> StatusCode {
        port.clone().oneshot(Request::new(Body::empty())).await.unwrap().status()
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_is_waited_for_to_the_end_of_its_answer_and_what_comes_after_is_refused() {
        let drain = Drain::default();
        let port = Router::new().route("/", get(async || "done")).layer(from_fn_with_state(drain.clone(), admit));
        let answer = port.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        let finishing = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finish(Duration::from_secs(60)).await }
        });
        drain.asked().cancelled().await;
        let refused = port.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(refused.into_body(), 1000).await.unwrap();
        assert!(body.starts_with(br#"{"code":"unavailable""#), "{body:?}");
        assert!(!finishing.is_finished(), "the first answer is not sent yet");
        assert_eq!(axum::body::to_bytes(answer.into_body(), 10).await.unwrap(), "done");
        finishing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_not_waited_for_longer() {
        let drain = Drain::default();
        let port = Router::new().route("/", get(async || "done")).layer(from_fn_with_state(drain.clone(), admit));
        assert_eq!(status(&port).await, StatusCode::OK);
        let _answer = port.oneshot(Request::new(Body::empty())).await.unwrap();
        let began = tokio::time::Instant::now();
        drain.finish(Duration::from_secs(60)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(60));
    }
}
