//! How many virtual machines start at once. Until its guest answers a start keeps a processor busy; where many more start
//! than there are processors none is ready sooner, all are late, and in the end too late for their deadlines. So whoever
//! comes later waits for a turn, first come first served, and its deadline begins with that.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::CreateError;

/// Starts for each processor: what one waits for, as its network and its files, another makes use of.
const PER_PROCESSOR: usize = 2;

/// So long others wait for one at most: a guest that will not answer is its owner's trouble alone.
const LONGEST: Duration = Duration::from_secs(3);

/// The turns of a host.
#[derive(Debug)]
pub struct Turns(Arc<Semaphore>);

/// Held until a guest answers.
#[must_use]
pub(super) struct Turn(#[expect(dead_code, reason = "it acts when it is dropped")] DropGuard);

impl Turns {
    /// As many as this machine's processors can make use of.
    pub fn here() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::of(processors * PER_PROCESSOR)
    }

    fn of(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Waits until it is the caller's. Who has one must not wait for another's start.
    pub(super) async fn take(&self) -> Turn {
        let permit = self.0.clone().acquire_owned().await.expect("turns are never withdrawn");
        let over = CancellationToken::new();
        let turn = Turn(over.clone().drop_guard());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(LONGEST, over.cancelled()).await;
            drop(permit);
        });
        turn
    }

    /// The same for a sandbox that may be deleted meanwhile.
    pub(super) async fn take_unless(&self, deleted: &CancellationToken) -> Result<Turn, CreateError> {
        tokio::select! {
            turn = self.take() => Ok(turn),
            () = deleted.cancelled() => Err(CreateError::Deleted),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn who_comes_later_waits_and_whoever_is_deleted_does_not() {
        let turns = Turns::of(1);
        let first = turns.take().await;
        let mut second = Box::pin(turns.take());
        assert!(second.as_mut().now_or_never().is_none());
        let deleted = CancellationToken::new();
        let mut third = Box::pin(turns.take_unless(&deleted));
        assert!(third.as_mut().now_or_never().is_none());
        deleted.cancel();
        assert!(matches!(third.await, Err(CreateError::Deleted)));
        drop(first);
        drop(second.await);
        drop(turns.take_unless(&CancellationToken::new()).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_one_that_does_not_start() {
        let turns = Turns::of(1);
        let begun = Instant::now();
        let _first = turns.take().await;
        let _second = turns.take().await;
        assert_eq!(begun.elapsed().as_secs(), LONGEST.as_secs());
    }
}
