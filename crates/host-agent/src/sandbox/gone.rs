//! Which sandboxes were deleted a while ago: a create that was decided before the delete and comes after it makes none. Kept
//! in memory only: a call does not outlive the host agent that it was made to.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use model::SandboxId;
use tokio::time::Instant;

/// No call is on its way for longer.
const KEPT: Duration = Duration::from_secs(900);

/// How many are kept at most. Ids are random, so that only their owner can name one.
const MOST: usize = 100_000;

/// Ids in the order in which they were deleted first.
#[derive(Debug, Default)]
pub(super) struct Gone {
    ids: HashSet<SandboxId>,
    order: VecDeque<(Instant, SandboxId)>,
}

impl Gone {
    /// Somebody wants this one to be gone, whether or not it was ever there.
    pub fn add(&mut self, id: &SandboxId) {
        let now = Instant::now();
        while self.order.front().is_some_and(|(since, _)| now - *since > KEPT || self.order.len() >= MOST) {
            let oldest = self.order.pop_front();
            oldest.map(|(_, id)| self.ids.remove(&id));
        }
        if self.ids.insert(id.clone()) {
            self.order.push_back((now, id.clone()));
        }
    }

    /// Whether it was deleted, as far as that is kept.
    pub fn has(&self, id: &SandboxId) -> bool {
        self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_deleted_is_known_for_longer_than_any_call_takes_and_not_for_ever() {
        let [first, second]: [SandboxId; 2] = ["sb1".parse().unwrap(), "sb2".parse().unwrap()];
        let mut gone = Gone::default();
        gone.add(&first);
        gone.add(&first);
        tokio::time::advance(KEPT).await;
        gone.add(&second);
        assert!(gone.has(&first) && gone.has(&second));
        tokio::time::advance(Duration::from_secs(1)).await;
        gone.add(&second);
        assert!(!gone.has(&first) && gone.has(&second));
        assert_eq!((gone.ids.len(), gone.order.len()), (1, 1));
    }
}
