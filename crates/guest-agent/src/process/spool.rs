//! What a process wrote, for those who listen: the last of it is kept, with the place of each byte in all that was ever
//! written, and how the process ended after its last word. Who listens holds the process up rather than lose anything;
//! with nobody there the oldest goes. Knows nothing of how events travel.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::Notify;

use super::reaper::Exit;

/// How many bytes of one process are kept.
pub const LIMIT: usize = 1 << 20;

/// Where a process wrote something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To standard output.
    Stdout,
    /// To standard error.
    Stderr,
    /// To its terminal.
    Terminal,
}

/// A piece of what a process wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How much it had written before, to wherever.
    pub offset: u64,
    /// Where to.
    pub kind: Kind,
    /// What.
    pub bytes: Bytes,
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wrote this.
    Output(Chunk),
    /// So many bytes that the listener asked for are not kept any more.
    Lost(u64),
    /// It ended; nothing follows.
    End(End),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself or by a signal.
    Exited(Exit),
    /// It was killed because its time was over.
    TimedOut,
}

/// From where on somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From what it writes next.
    Now,
    /// From this place in all that it wrote.
    Offset(u64),
}

/// What one process wrote.
#[derive(Debug, Default)]
pub struct Spool {
    state: Mutex<State>,
    /// Told of each chunk and of the end.
    news: Notify,
    /// Told when a listener has heard something, or left.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The newest, without a gap.
    chunks: VecDeque<Chunk>,
    /// Bytes in `chunks`.
    kept: usize,
    /// All bytes ever written.
    written: u64,
    /// What each listener hears next.
    places: Vec<(u64, u64)>,
    /// Names listeners.
    listeners: u64,
    end: Option<(End, Instant)>,
}

impl Spool {
    /// One more listener. It hears of a process that ended what is kept, and then just that.
    pub fn listen(self: &Arc<Self>, from: From) -> Listener {
        let mut state = self.lock();
        let place = match from {
            From::Now => state.written,
            From::Offset(offset) => offset.min(state.written),
        };
        state.listeners += 1;
        let name = state.listeners;
        state.places.push((name, place));
        Listener { spool: self.clone(), name }
    }

    /// How and when it ended, once that is told.
    pub fn end(&self) -> Option<(End, Instant)> {
        self.lock().end
    }

    /// Bytes that are kept.
    pub fn kept(&self) -> usize {
        self.lock().kept
    }

    /// Waits until `size` more bytes take nothing from a listener; false where that takes until `deadline`.
    pub fn wait_for_room(&self, size: usize, deadline: Option<Instant>) -> bool {
        let mut state = self.lock();
        while !state.has_room(size) {
            state = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        true
    }

    /// Adds what was written, for which there is room.
    pub fn add(&self, kind: Kind, bytes: Bytes) {
        let mut state = self.lock();
        let offset = state.written;
        state.written += bytes.len() as u64;
        state.kept += bytes.len();
        state.chunks.push_back(Chunk { offset, kind, bytes });
        state.forget_the_oldest();
        drop(state);
        self.news.notify_waiters();
    }

    /// Nothing follows.
    pub fn close(&self, end: End) {
        self.lock().end = Some((end, Instant::now()));
        self.news.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&self) -> u64 {
        self.chunks.front().map_or(self.written, |oldest| oldest.offset)
    }

    fn has_room(&self, size: usize) -> bool {
        let Some(slowest) = self.places.iter().map(|(_, place)| *place).min() else { return true };
        let unheard = usize::try_from(self.written - slowest).unwrap_or(usize::MAX);
        // What is not kept any more is lost already.
        unheard.min(self.kept).saturating_add(size) <= LIMIT
    }

    fn forget_the_oldest(&mut self) {
        while let excess = self.kept.saturating_sub(LIMIT)
            && excess > 0
            && let Some(oldest) = self.chunks.front_mut()
        {
            let gone = oldest.bytes.len().min(excess);
            oldest.offset += gone as u64;
            let _ = oldest.bytes.split_to(gone);
            self.kept -= gone;
            if oldest.bytes.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn event_at(&self, place: u64) -> Option<(Event, u64)> {
        let begin = self.begin();
        if place < begin {
            return Some((Event::Lost(begin - place), begin));
        }
        if place == self.written {
            return self.end.map(|(end, _)| (Event::End(end), place));
        }
        let after = self.chunks.partition_point(|chunk| chunk.offset <= place);
        let chunk = &self.chunks[after - 1];
        let heard = usize::try_from(place - chunk.offset).unwrap_or_default();
        let bytes = chunk.bytes.slice(heard..);
        let next = place + bytes.len() as u64;
        Some((Event::Output(Chunk { offset: place, kind: chunk.kind, bytes }), next))
    }
}

/// Somebody who listens. One that is dropped holds nothing up any more.
#[derive(Debug)]
pub struct Listener {
    spool: Arc<Spool>,
    name: u64,
}

impl Listener {
    /// The next event. After the end it is told again.
    pub async fn next(&mut self) -> Event {
        loop {
            // Before the look, so that what comes after it is not missed.
            let news = self.spool.news.notified();
            if let Some(event) = self.take() {
                return event;
            }
            news.await;
        }
    }

    /// The next event, if it has happened.
    pub fn take(&self) -> Option<Event> {
        let mut state = self.spool.lock();
        let index = state.places.iter().position(|(name, _)| *name == self.name)?;
        let (event, next) = state.event_at(state.places[index].1)?;
        state.places[index].1 = next;
        drop(state);
        self.spool.room.notify_all();
        Some(event)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.spool.lock().places.retain(|(name, _)| *name != self.name);
        self.spool.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> Arc<Spool> {
        Arc::default()
    }

    fn write(spool: &Spool, size: usize, byte: u8) {
        spool.add(Kind::Stdout, vec![byte; size].into());
    }

    fn output(offset: u64, kind: Kind, bytes: &'static [u8]) -> Option<Event> {
        Some(Event::Output(Chunk { offset, kind, bytes: Bytes::from_static(bytes) }))
    }

    #[test]
    fn a_listener_hears_from_where_it_asks() {
        let spool = spool();
        spool.add(Kind::Stdout, Bytes::from_static(b"abc"));
        spool.add(Kind::Stderr, Bytes::from_static(b"def"));
        let (mut all, mut some, mut new) =
            (spool.listen(From::Offset(0)), spool.listen(From::Offset(4)), spool.listen(From::Now));
        assert_eq!(all.take(), output(0, Kind::Stdout, b"abc"));
        assert_eq!(all.take(), output(3, Kind::Stderr, b"def"));
        assert_eq!(some.take(), output(4, Kind::Stderr, b"ef"));
        assert_eq!((all.take(), some.take(), new.take()), (None, None, None));
        spool.close(End::TimedOut);
        for listener in [&mut all, &mut some, &mut new, &mut spool.listen(From::Offset(99))] {
            assert_eq!(listener.take(), Some(Event::End(End::TimedOut)));
        }
    }

    #[test]
    fn with_nobody_there_the_oldest_goes_and_is_counted() {
        let spool = spool();
        for byte in 0..40 {
            assert!(spool.wait_for_room(32 * 1024, None));
            write(&spool, 32 * 1024, byte);
        }
        assert_eq!(spool.kept(), LIMIT);
        let late = spool.listen(From::Offset(100));
        assert_eq!(late.take(), Some(Event::Lost(8 * 32 * 1024 - 100)));
        let Some(Event::Output(chunk)) = late.take() else { panic!("no output") };
        assert_eq!((chunk.offset, chunk.bytes[0]), (8 * 32 * 1024, 8));
    }

    #[test]
    fn who_listens_loses_nothing() {
        let spool = spool();
        let listener = spool.listen(From::Offset(0));
        for _ in 0..32 {
            assert!(spool.wait_for_room(32 * 1024, None));
            write(&spool, 32 * 1024, 1);
        }
        assert!(!spool.wait_for_room(1, Some(Instant::now())), "it has heard nothing");
        assert!(matches!(listener.take(), Some(Event::Output(_))));
        assert!(spool.wait_for_room(32 * 1024, Some(Instant::now())));
        drop(listener);
        assert!(spool.wait_for_room(LIMIT, Some(Instant::now())), "it has left");
    }
}
