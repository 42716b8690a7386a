//! How long a guest may be silent before its answer begins: as long as it goes on taking the request, as long as it likes;
//! else there is an end, since each request holds a place and a connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

/// When a request last moved.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    /// That of a request, which is to be sent as it comes back.
    pub fn of(request: Request) -> (Self, Request) {
        let progress = Self(Arc::new(Mutex::new(Instant::now())));
        let noted = progress.clone();
        (progress, request.map(|body| Body::new(Noted { body, progress: noted })))
    }

    /// Waits for an answer; none where for so long neither it came nor anything of the request went.
    pub async fn answered<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            answer = answer => Some(answer),
            () = self.stands_still(limit) => None,
        }
    }

    async fn stands_still(&self, limit: Duration) {
        loop {
            let due = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// A body whose pieces are noted as they are taken.
struct Noted {
    body: Body,
    progress: Progress,
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.progress.note();
        }
        polled
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
    use std::future::{pending, ready};

    use futures::stream::{self, StreamExt};
    use http_body_util::BodyExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_silent_guest_is_waited_for_so_long_and_one_that_answers_is_not() {
        let (progress, _) = Progress::of(Request::new(Body::empty()));
        let begun = Instant::now();
        assert_eq!(progress.answered(LIMIT, pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), LIMIT);
        assert_eq!(Progress::of(Request::new(Body::empty())).0.answered(LIMIT, ready(5)).await, Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_goes_on_taking_the_request_is_waited_for() {
        let slowly = stream::iter(0..5).then(async |_| {
            tokio::time::sleep(LIMIT / 2).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        });
        let (progress, request) = Progress::of(Request::new(Body::from_stream(slowly)));
        let begun = Instant::now();
        let answer = async {
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes().len(), 5);
            pending::<()>().await;
        };
        assert_eq!(progress.answered(LIMIT, answer).await, None);
        assert_eq!(begun.elapsed(), LIMIT / 2 * 5 + LIMIT);
    }
}
