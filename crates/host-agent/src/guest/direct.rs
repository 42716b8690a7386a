//! The host's own conversation with a guest, without HTTP: after a capture every instruction is dear there. One that is
//! not needed is kept for the next word, so that nothing has to be opened for it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buffa::Message;
use futures::FutureExt;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, Word};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use super::Guest;
use crate::net::GuestStream;

/// Where a guest listens to us alone.
pub(super) const PORT: u16 = 49982;

/// A guest accepts in a fraction of a millisecond; this is for one that is drowned in work. Longer than the second
/// after which a lost packet is sent again.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// The longest answer: a piece of output, with room to spare.
const ANSWER_LIMIT: usize = 1 << 20;

/// Conversations that are kept. More than this many at once are opened as needed.
const KEPT: usize = 4;

/// What is read from the socket at once.
const BUFFER: usize = 16 * 1024;

/// Why a conversation ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectError {
    /// The connection broke.
    #[error("the guest agent hung up")]
    Broken(#[source] io::Error),
    /// What came is no answer.
    #[error("the guest agent's answer cannot be understood")]
    Garbled,
}

/// A connection on which the guest waits for a word, or answers one.
#[derive(Debug)]
pub(super) struct Conversation(BufReader<GuestStream>);

/// Conversations in which the guest waits for a word.
#[derive(Debug, Clone, Default)]
pub(super) struct Idle(Arc<Mutex<Vec<Conversation>>>);

impl Conversation {
    pub fn new(stream: GuestStream) -> Self {
        Self(BufReader::with_capacity(BUFFER, stream))
    }

    /// Says something.
    pub async fn say(&mut self, what: Said) -> Result<(), DirectError> {
        self.0.get_mut().write_all(&framed(what)).await.map_err(DirectError::Broken)
    }

    /// Says something if there is room to say it at once, and hangs up.
    pub fn last_word(mut self, what: Said) {
        let _ = self.0.get_mut().write(&framed(what)).now_or_never();
    }

    /// The next answer.
    pub async fn hear(&mut self) -> Result<Answer, DirectError> {
        let length = self.0.read_u32().await.map_err(DirectError::Broken)? as usize;
        if length > ANSWER_LIMIT {
            return Err(DirectError::Garbled);
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).await.map_err(DirectError::Broken)?;
        Answer::decode_from_slice(&answer).map_err(|_| DirectError::Garbled)
    }

    /// Whether the guest waits for a word: it has neither said anything that nobody asked for nor hung up.
    fn is_quiet(&mut self) -> bool {
        self.0.buffer().is_empty() && self.0.get_mut().read(&mut [0]).now_or_never().is_none()
    }
}

impl Idle {
    /// Hangs up all of them.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Conversation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// A conversation in which the guest waits for a word.
    pub(super) async fn conversation(&self) -> io::Result<Conversation> {
        while let Some(mut kept) = self.kept() {
            if kept.is_quiet() {
                return Ok(kept);
            }
        }
        self.connector.connect(PORT, CONNECT_DEADLINE).await.map(Conversation::new)
    }

    /// One that was kept, if there is one.
    pub(super) fn kept(&self) -> Option<Conversation> {
        self.idle.lock().pop()
    }

    /// Keeps a conversation in which the guest waits for a word.
    pub(super) fn keep(&self, conversation: Option<Conversation>) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            idle.extend(conversation);
        }
    }
}

fn framed(what: Said) -> Vec<u8> {
    let message = Word { word: Some(what), ..Default::default() }.encode_to_vec();
    // What a request may hold is far below what four bytes can say; a guest refuses more than some megabytes.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &message].concat()
}
