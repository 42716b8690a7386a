//! Bodies that know how long they last: one that carries a guard to its end, and one that gives up when nothing more
//! arrives.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// A body that holds something until it is sent or given up.
pub struct Guarded<G> {
    body: Body,
    _guard: G,
}

impl<G> Guarded<G> {
    /// The body, with what it holds.
    pub fn new(body: Body, guard: G) -> Self {
        Self { body, _guard: guard }
    }
}

impl<G: Unpin> http_body::Body for Guarded<G> {
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

/// A body that stopped arriving.
#[derive(Debug, thiserror::Error)]
#[error("nothing more of the body arrived")]
pub struct Stalled;

/// Tells whether a body stopped arriving.
#[derive(Debug, Clone, Default)]
pub struct StallSign(Arc<AtomicBool>);

impl StallSign {
    /// Whether it did.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body of which something must arrive every now and then.
pub struct Arriving {
    body: Body,
    patience: Duration,
    /// Set while something is waited for.
    sleep: Option<Pin<Box<Sleep>>>,
    sign: StallSign,
}

impl Arriving {
    /// The body, and how long nothing of it may arrive.
    pub fn new(body: Body, patience: Duration, sign: StallSign) -> Self {
        Self { body, patience, sleep: None, sign }
    }

    fn stalled(&mut self, context: &mut Context<'_>) -> bool {
        let patience = self.patience;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep(patience)));
        sleep.as_mut().poll(context).is_ready()
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.sign.is_set() {
            return Poll::Ready(Some(Err(Stalled.into())));
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                // Only the time that we wait counts, not the time that a reader of ours takes for what is here.
                self.sleep = None;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending if self.stalled(context) => {
                self.sign.0.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(Stalled.into())))
            }
            Poll::Pending => Poll::Pending,
        }
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
    use http_body_util::BodyExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(800);

    #[tokio::test]
    async fn a_body_may_take_long_but_not_stand_still() {
        let pieces = futures::stream::unfold(0, |n| async move {
            // Together later than it would be too late, each earlier; and then none.
            tokio::time::sleep(if n < 5 { PATIENCE / 4 } else { Duration::from_secs(3600) }).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), n + 1))
        });
        let sign = StallSign::default();
        let mut body = Arriving::new(Body::from_stream(pieces), PATIENCE, sign.clone());
        for _ in 0..5 {
            body.frame().await.unwrap().unwrap();
        }
        assert!(!sign.is_set());
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().unwrap_err().is::<Stalled>(), "and it stays so");
        }
        assert!(sign.is_set());
    }
}
