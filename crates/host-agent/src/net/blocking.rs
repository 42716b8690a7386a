//! Kernel work off the runtime's threads.
//!
//! The kernel answers netlink inside the system call that asks, in milliseconds, more when interfaces go, and under one
//! lock for the whole machine. A thread that may block waits for that, so that no other sandbox's stream does.

use std::future::Future;
use std::io;

use tokio::task::JoinHandle;

/// Runs `work` to its end on a thread that may block, with a small runtime of its own. It is not cancelled with the
/// caller.
pub(super) async fn to_the_end<T, F>(work: impl FnOnce() -> F + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    ended(&mut begin(work)).await
}

/// Begins `work` there and then.
pub(super) fn begin<T, F>(work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<io::Result<T>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(work()))
    })
}

/// Waits for what was begun. May be given up, and not be called again once it has returned.
pub(super) async fn ended<T>(work: &mut JoinHandle<io::Result<T>>) -> io::Result<T> {
    match work.await {
        Ok(result) => result,
        Err(error) => {
            error.try_into_panic().map_or_else(|error| Err(error.into()), |panic| std::panic::resume_unwind(panic))
        }
    }
}
