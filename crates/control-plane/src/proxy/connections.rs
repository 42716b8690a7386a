//! How many requests each sandbox is answering at once: each costs a connection, and none may take all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::SandboxId;

/// Requests of one sandbox at once, WebSockets included. A client library opens up to 200 connections.
pub const LIMIT: usize = 512;

/// The requests under way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<SandboxId, usize>>>);

/// One request's place. Given back when this is dropped.
#[derive(Debug)]
pub struct ConnectionPlace {
    connections: Connections,
    id: SandboxId,
}

impl Connections {
    /// A place for a request, if the sandbox has one left.
    pub fn take(&self, id: &SandboxId) -> Option<ConnectionPlace> {
        let mut counts = self.counts();
        let count = counts.entry(id.clone()).or_default();
        if *count >= LIMIT {
            return None;
        }
        *count += 1;
        Some(ConnectionPlace { connections: self.clone(), id: id.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<SandboxId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sandbox_has_so_many_places_and_gets_them_back() {
        let connections = Connections::default();
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let mut places: Vec<_> = (0..LIMIT).map(|_| connections.take(&one).unwrap()).collect();
        assert!(connections.take(&one).is_none() && connections.take(&other).is_some());
        places.pop();
        assert!(connections.take(&one).is_some());
        places.clear();
        assert!(connections.counts().is_empty(), "nothing is kept of sandboxes that answer nothing");
    }
}
