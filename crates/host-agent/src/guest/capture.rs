//! What host and guest agent say to each other around a capture of the guest (version 1).

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use serde::Serialize;

use super::{Guest, GuestError, Identity, PORT, READY_DEADLINE, READY_INTERVAL};

/// Fresh randomness for a guest's kernel.
const ENTROPY_BYTES: usize = 64;

/// A guest that answers within this has a clock that is behind the host's by no more. One that had to find its way back
/// into its memory takes longer, and is told the time again.
const PROMPT: Duration = Duration::from_millis(40);

/// How often at most, on a host that is busy without end.
const TRIES: usize = 4;

/// What a first command needs, so that a captured guest has it in its memory. Those that a template lacks are skipped.
const WARM_UP: &str =
    "/bin/true; command -v python3 >/dev/null && python3 -c 0; command -v bash >/dev/null && bash -c :";

/// How long that may take.
const WARM_UP_DEADLINE: Duration = Duration::from_secs(60);

impl Guest {
    /// Makes the guest small: what is dirty is written, what can be read again is forgotten. Then runs what a first
    /// command needs, so that that alone is remembered.
    pub async fn warm_up(&self) -> Result<(), GuestError> {
        self.ask(Method::POST, "/settle", Bytes::new()).await?;
        let command = super::ExecRequest {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), WARM_UP.to_owned()],
            timeout: Some(WARM_UP_DEADLINE),
        };
        // An image that is not warm is only slower.
        if let Err(error) = self.exec(command).await {
            tracing::info!(error = &error as &dyn std::error::Error, "a guest was not warmed up");
        }
        Ok(())
    }

    /// Stops all user processes and refuses user traffic until [`Self::restore`].
    pub async fn freeze(&self) -> Result<(), GuestError> {
        self.ask(Method::POST, "/freeze", Bytes::new()).await.map(drop)
    }

    /// Makes a guest right that stood still: randomness, clock, identity, access token; then user processes go on. The
    /// guest may only be about to run: tries until it answers.
    pub async fn restore(&self, identity: impl Fn() -> Identity, limit: Duration) -> Result<(), GuestError> {
        let restored = async {
            let mut interval = tokio::time::interval(READY_INTERVAL);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while self.connector.connect(PORT, READY_DEADLINE).await.is_err() {
                interval.tick().await;
            }
            for _ in 0..TRIES {
                let begun = Instant::now();
                self.ask(Method::POST, "/restore", self.restoration(identity())).await?;
                if begun.elapsed() < PROMPT {
                    break;
                }
            }
            Ok(())
        };
        tokio::time::timeout(limit, restored).await.unwrap_or(Err(GuestError::Silent))
    }

    fn restoration(&self, identity: Identity) -> Bytes {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Restoration<'a> {
            entropy: String,
            access_token: &'a str,
            #[serde(flatten)]
            identity: Identity,
        }
        let mut random = [0; ENTROPY_BYTES];
        getrandom::fill(&mut random).expect("the kernel has randomness");
        let entropy = STANDARD.encode(random);
        let restoration = Restoration { entropy, access_token: &self.access_token, identity };
        serde_json::to_vec(&restoration).expect("a restoration is plain data").into()
    }
}
