//! Waiting for conditions instead of for a time.

use std::time::Duration;

use tokio::time::Instant;

/// For what takes milliseconds on an idle machine and much longer on a busy one.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks again and again until `probe` has an answer; fails the test, naming `what`, when it has none in a minute.
pub async fn wait_for<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {LIMIT:?} in vain for: {what}");
        interval.tick().await;
    }
}
