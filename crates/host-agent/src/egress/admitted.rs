//! Which addresses were answered for which names, and until when: exactly these are connected to.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pairs that are remembered. A guest that fills this learns no more names until some are over.
const MOST: usize = 4096;

/// A program may use an address for this long after its answer is over.
const GRACE: Duration = Duration::from_secs(300);

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Admitted(Mutex<HashMap<(Ipv4Addr, String), Instant>>);

impl Admitted {
    /// Remembers an answer that holds for so long. False where there is no room.
    pub fn admit(&self, name: &str, addresses: &[Ipv4Addr], holds: Duration) -> bool {
        let (mut table, now) = (self.lock(), Instant::now());
        if table.len() + addresses.len() > MOST {
            table.retain(|_, until| *until > now);
        }
        if table.len() + addresses.len() > MOST {
            return false;
        }
        table.extend(addresses.iter().map(|address| ((*address, name.to_owned()), now + holds + GRACE)));
        true
    }

    /// Whether a name's answer had this address, not long ago.
    pub fn has(&self, name: &str, address: Ipv4Addr) -> bool {
        self.lock().get(&(address, name.to_owned())).is_some_and(|until| *until > Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Ipv4Addr, String), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(1, 2, 3, 4);

    #[tokio::test(start_paused = true)]
    async fn an_address_is_admitted_for_its_own_name_and_for_a_time() {
        let admitted = Admitted::default();
        assert!(admitted.admit("a.b", &[ONE], Duration::from_secs(60)));
        assert!(admitted.has("a.b", ONE));
        assert!(!admitted.has("c.d", ONE) && !admitted.has("a.b", Ipv4Addr::new(1, 2, 3, 5)));
        tokio::time::advance(Duration::from_secs(361)).await;
        assert!(!admitted.has("a.b", ONE));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_makes_room_and_nothing_else_does() {
        let admitted = Admitted::default();
        for index in 0..MOST {
            assert!(admitted.admit(&format!("n{index}"), &[ONE], Duration::from_secs(1)));
        }
        assert!(!admitted.admit("one-more", &[ONE], Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(302)).await;
        assert!(admitted.admit("one-more", &[ONE], Duration::from_secs(1)));
    }
}
