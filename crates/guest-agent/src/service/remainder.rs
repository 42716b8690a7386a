//! What is left of a request that is answered before its end, as one with a message that is too long: it is taken and
//! thrown away before the answer goes. A client that first sends all and then reads would else find its connection
//! broken, and never learn why.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::future::poll_fn;
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

/// What is thrown away at most; whoever sends more is answered and cut off.
const MOST: usize = 64 << 20;

/// How long the next piece of a request is waited for that has said how long it is, and so is sent to its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for one without an end in sight, whose client may be waiting for the answer.
const PAUSE: Duration = Duration::from_millis(250);

/// Lets an answer go once its request is at its end.
pub async fn throw_away(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let remainder = Remainder(Arc::new(Mutex::new(Remaining { body, is_over: false })));
    let response = next.run(Request::from_parts(parts, Body::new(remainder.clone()))).await;
    remainder.drain().await;
    response
}

/// A body that is still there when whoever was given it has dropped it.
#[derive(Clone)]
struct Remainder(Arc<Mutex<Remaining>>);

struct Remaining {
    body: Body,
    /// It has ended, well or badly, and is not to be asked again.
    is_over: bool,
}

impl Remainder {
    fn lock(&self) -> MutexGuard<'_, Remaining> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drain(mut self) {
        let pause = if self.size_hint().exact().is_some() { PATIENCE } else { PAUSE };
        let mut taken = 0;
        while taken < MOST {
            let piece = timeout(pause, poll_fn(|context| Pin::new(&mut self).poll_frame(context))).await;
            let Ok(Some(Ok(frame))) = piece else { return };
            taken += frame.data_ref().map_or(0, Bytes::len);
        }
    }
}

impl HttpBody for Remainder {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut remaining = self.lock();
        if remaining.is_over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut remaining.body).poll_frame(context);
        remaining.is_over = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        let remaining = self.lock();
        remaining.is_over || remaining.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().body.size_hint()
    }
}
