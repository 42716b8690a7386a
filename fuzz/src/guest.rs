//! A guest whose agent says the same to whoever calls, and hangs up.

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::future::BoxFuture;
use host_agent::guest::{ExecRequest, Guest};
use host_agent::net::{Dial, GuestConnector, GuestStream};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio_util::either::Either;

/// No conversation with an agent that hangs up takes this long.
const LONG: Duration = Duration::from_secs(10);

/// As much as is on its way at once.
const BUFFER: usize = 64 * 1024;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are threads")
});

#[derive(Debug)]
struct Says(Arc<[u8]>);

impl Dial for Says {
    fn dial(&self, _port: u16) -> BoxFuture<'_, io::Result<GuestStream>> {
        let (ours, mut theirs) = tokio::io::duplex(BUFFER);
        let words = self.0.clone();
        tokio::spawn(async move {
            // Whoever asked may have heard enough.
            let _ = theirs.write_all(&words).await;
            let _ = theirs.shutdown().await;
            // What it is told is not listened to, and not refused either.
            let _ = tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await;
        });
        Box::pin(async { Ok(Either::Right(ours)) })
    }
}

/// A guest that answers everything with these bytes.
pub fn guest_that_says(words: &[u8]) -> Guest {
    Guest::new(GuestConnector::new(Says(words.into())))
}

/// Something to ask it for.
pub fn command() -> ExecRequest {
    ExecRequest {
        program: "true".to_owned(),
        arguments: Vec::new(),
        envs: Default::default(),
        cwd: None,
        user: None,
        timeout: None,
    }
}

/// Waits for whatever comes of asking.
///
/// # Panics
///
/// Where nothing comes of it.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(async { tokio::time::timeout(LONG, work).await.expect("whoever hung up is not waited for") })
}

