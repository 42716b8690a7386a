//! Kernel work off the runtime's threads.
//!
//! The kernel answers netlink inside the system call that asks, in milliseconds, more when interfaces go, and under one
//! lock for the whole machine. A thread that may block waits for that, so that no other sandbox's stream does.

use std::future::Future;
use std::io;

/// Runs `work` to its end on a thread that may block, with a small runtime of its own. It is not cancelled with the
/// caller.
pub(super) async fn to_the_end<T, F>(work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let body = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    };
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => {
            error.try_into_panic().map_or_else(|error| Err(error.into()), |panic| std::panic::resume_unwind(panic))
        }
    }
}
