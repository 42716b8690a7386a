//! What host and guest agent say to each other around a capture of the guest (version 2).

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use buffa::Message;
use bytes::Bytes;
use http::Method;
use proto::restore::word::Word as Said;
use proto::restore::{Answer, Restoration, Word};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Guest, GuestError, Identity, READY_INTERVAL, RESTORE_PORT};

/// Fresh randomness for a guest's kernel.
const ENTROPY_BYTES: usize = 64;

/// A guest that answers within this has a clock that is behind the host's by no more. One that had to find its way back
/// into its memory takes longer, and is told the time again.
const PROMPT: Duration = Duration::from_millis(20);

/// How often at most, on a host that is busy without end.
const TRIES: usize = 4;

/// The longest answer: an error's text.
const ANSWER_LIMIT: usize = 4096;

/// What a first command needs, so that a captured guest has it in its memory. Those that a template lacks are skipped.
const WARM_UP: &str =
    "/bin/true; command -v python3 >/dev/null && python3 -c 0; command -v bash >/dev/null && bash -c :";

/// How long that may take.
const WARM_UP_DEADLINE: Duration = Duration::from_secs(60);

impl Guest {
    /// Makes the guest small: what is dirty is written, what can be read again is forgotten. Then runs what a first
    /// command needs, so that that alone is remembered.
    pub async fn settle(&self) -> Result<(), GuestError> {
        self.ask(Method::POST, "/settle", Bytes::new()).await?;
        self.warm_up().await;
        Ok(())
    }

    /// Runs what a first command needs. A guest that is not warm is only slower.
    pub async fn warm_up(&self) {
        let command = super::ExecRequest {
            program: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), WARM_UP.to_owned()],
            timeout: Some(WARM_UP_DEADLINE),
        };
        if let Err(error) = self.exec(command).await {
            tracing::info!(error = &error as &dyn std::error::Error, "a guest was not warmed up");
        }
    }

    /// Stops all user processes and refuses user traffic until [`Self::restore`].
    pub async fn freeze(&self) -> Result<(), GuestError> {
        self.ask(Method::POST, "/freeze", Bytes::new()).await.map(drop)
    }

    /// Makes a guest right that stood still: clock, randomness, identity, access token; then user processes go on. The
    /// guest may only be about to run: tries until it answers.
    pub async fn restore(&self, identity: Identity, limit: Duration) -> Result<(), GuestError> {
        let restored = async {
            let mut stream = self.connect_to_restore(limit).await;
            for _ in 0..TRIES {
                let begun = Instant::now();
                say(&mut stream, Said::ClockUnixNs(unix_ns())).await?;
                if begun.elapsed() < PROMPT {
                    break;
                }
            }
            say(&mut stream, Said::Restoration(Box::new(self.restoration(identity)))).await
        };
        tokio::time::timeout(limit, restored).await.unwrap_or(Err(GuestError::Silent))
    }

    /// What asks for a connection before the guest runs waits for it in the tap, so one try is enough unless the
    /// guest's network says otherwise.
    async fn connect_to_restore(&self, limit: Duration) -> TcpStream {
        loop {
            match self.connector.connect(RESTORE_PORT, limit).await {
                Ok(stream) => return stream,
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
            access_token: self.access_token.to_string(),
            env_vars: identity.env_vars.into_iter().collect(),
            default_user: identity.default_user,
            default_workdir: identity.default_workdir.unwrap_or_default(),
            boot_id: identity.boot_id.unwrap_or_default(),
            ..Default::default()
        }
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// Says one thing and waits until the guest has done it.
async fn say(stream: &mut TcpStream, what: Said) -> Result<(), GuestError> {
    let message = Word { word: Some(what), ..Default::default() }.encode_to_vec();
    let length = u32::try_from(message.len()).map_err(|_| GuestError::Garbled)?;
    let answer = exchange(stream, &[&length.to_be_bytes()[..], &message].concat()).await;
    let answer = Answer::decode_from_slice(&answer.map_err(GuestError::Broken)?).map_err(|_| GuestError::Garbled)?;
    if answer.error.is_empty() { Ok(()) } else { Err(GuestError::not_restored(&answer.error)) }
}

async fn exchange(stream: &mut TcpStream, message: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(message).await?;
    let length = stream.read_u32().await? as usize;
    if length > ANSWER_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
