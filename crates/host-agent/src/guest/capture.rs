//! What host and guest agent say to each other around a capture of the guest (version 3).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Method;
use proto::direct::Restoration;
use proto::direct::word::Word as Said;

use super::direct::{Conversation, DirectError, PORT};
use super::{Guest, GuestError, Identity, READY_INTERVAL};

/// Fresh randomness for a guest's kernel.
const ENTROPY_BYTES: usize = 64;

/// A guest that answers within this has a clock that is behind the host's by no more. One that had to find its way back
/// into its memory takes longer, and is told the time again.
const PROMPT: Duration = Duration::from_millis(20);

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
    pub async fn settle(&self) -> Result<(), GuestError> {
        self.write_back().await?;
        self.warm_up().await;
        Ok(())
    }

    /// Makes the guest write all that is dirty.
    pub async fn write_back(&self) -> Result<(), GuestError> {
        self.ask(Method::POST, "/settle", Bytes::new()).await.map(drop)
    }

    /// Runs what a first command needs. A guest that is not warm is only slower.
    pub async fn warm_up(&self) {
        let command = super::ExecRequest {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), WARM_UP.to_owned()],
            timeout: Some(WARM_UP_DEADLINE),
            ..Default::default()
        };
        if let Err(error) = self.exec(command).await {
            tracing::info!(error = &error as &dyn std::error::Error, "a guest was not warmed up");
        }
    }

    /// Stops all user processes and refuses user traffic until [`Self::restore`].
    pub async fn freeze(&self) -> Result<(), GuestError> {
        // What is captured waits for nobody who will not be there.
        self.idle.clear();
        self.ask(Method::POST, "/freeze", Bytes::new()).await.map(drop)
    }

    /// Makes a guest right that stood still: clock, randomness, identity, access token; then user processes go on. The
    /// guest may only be about to run: tries until it answers.
    pub async fn restore(&self, identity: Identity, limit: Duration) -> Result<(), GuestError> {
        let restored = async {
            let mut conversation = self.connect_to_restore(limit).await;
            for _ in 0..TRIES {
                let begun = Instant::now();
                say(&mut conversation, Said::ClockUnixNs(unix_ns())).await?;
                if begun.elapsed() < PROMPT {
                    break;
                }
            }
            say(&mut conversation, Said::Restoration(Box::new(self.restoration(identity)))).await?;
            // The next word finds the way in the guest's memory.
            self.keep(Some(conversation));
            Ok(())
        };
        tokio::time::timeout(limit, restored).await.unwrap_or(Err(GuestError::Silent))
    }

    /// What asks for a connection before the guest runs waits for it in the tap, so one try is enough unless the
    /// guest's network says otherwise. A guest that ran all the time has one.
    async fn connect_to_restore(&self, limit: Duration) -> Conversation {
        if let Some(kept) = self.kept() {
            return kept;
        }
        loop {
            match self.connector.connect(PORT, limit).await {
                Ok(stream) => return Conversation::new(stream),
                Err(_) => tokio::time::sleep(READY_INTERVAL).await,
            }
        }
    }

    fn restoration(&self, identity: Identity) -> Restoration {
        let mut entropy = vec![0; ENTROPY_BYTES];
        getrandom::fill(&mut entropy).expect("the kernel has randomness");
        Restoration {
            entropy,
            sandbox_id: identity.sandbox_id,
            hostname: identity.hostname,
            nameservers: identity.nameservers,
            access_token: self.access_token.0.to_string(),
            env_vars: identity.env_vars.into_iter().collect(),
            default_user: identity.default_user,
            default_workdir: identity.default_workdir.unwrap_or_default(),
            boot_id: identity.boot_id.unwrap_or_default(),
            ca_bundle: identity.ca_bundle.unwrap_or_default(),
            ..Default::default()
        }
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Says one thing and waits until the guest has done it.
async fn say(conversation: &mut Conversation, what: Said) -> Result<(), GuestError> {
    let said = async {
        conversation.say(what).await?;
        conversation.hear().await
    };
    match said.await {
        Ok(answer) if answer.error.is_empty() => Ok(()),
        Ok(answer) => Err(GuestError::not_restored(&answer.error)),
        Err(DirectError::Broken(error)) => Err(GuestError::Broken(error)),
        Err(DirectError::Garbled) => Err(GuestError::Garbled),
    }
}
