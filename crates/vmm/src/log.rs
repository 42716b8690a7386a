//! Logs whose size a guest cannot choose: only the last bytes are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// What a [`BoundedLog`] keeps of a stream.
pub const LOG_LIMIT: usize = 64 * 1024;

/// The last [`LOG_LIMIT`] bytes of a stream. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct BoundedLog(Arc<Mutex<VecDeque<u8>>>);

impl BoundedLog {
    /// Adds bytes and drops the oldest beyond the limit.
    pub fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(LOG_LIMIT)..];
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let excess = (kept.len() + bytes.len()).saturating_sub(LOG_LIMIT);
        kept.drain(..excess);
        kept.extend(bytes);
    }

    /// Reads a stream to its end in the background, whatever comes.
    pub fn follow(&self, mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                log.push(&buffer[..count]);
            }
        })
    }

    /// The last `lines` lines, without control characters: a guest must not drive the reader's terminal.
    pub fn tail(&self, lines: usize) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        drop(kept);
        let text = String::from_utf8_lossy(&bytes);
        let printable = |line: &str| -> String { line.chars().filter(|c| !c.is_control()).take(400).collect() };
        let all: Vec<String> = text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_keeps_only_its_end() {
        let log = BoundedLog::default();
        for _ in 0..100 {
            log.push(&[b'x'; 10_000]);
        }
        log.push(&vec![b'y'; LOG_LIMIT * 3]);
        log.push(b"\nthe end\n");
        assert_eq!(log.0.lock().unwrap().len(), LOG_LIMIT);
        assert_eq!(log.tail(1), "the end");
    }

    #[test]
    fn a_tail_cannot_drive_a_terminal() {
        let log = BoundedLog::default();
        log.push(b"\x1b[2Jone\r\n\xff\n\ntwo\x07\n");
        assert_eq!(log.tail(5), "[2Jone\n\u{fffd}\ntwo");
    }
}
