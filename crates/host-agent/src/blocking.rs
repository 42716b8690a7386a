//! Work that holds up its thread: on a thread of its own, unless the runtime has but one thread. There everything
//! happens one after another anyway, and always in the same order, which is what a simulation needs.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinError, spawn_blocking};

/// Runs `work` to its end, also where the caller does not wait. Fails only where it panics.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if has_one_thread() { Ok(work()) } else { spawn_blocking(work).await }
}

/// Runs `work` to its end; nobody waits for it.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) {
    if has_one_thread() {
        work();
    } else {
        spawn_blocking(work);
    }
}

fn has_one_thread() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}
