//! A socket that loses its patience: with a client that begins a request and does not finish its header, and with one
//! that takes nothing of its answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::config::ClientPatience;

/// How an HTTP/2 connection begins: what it carries while nothing is asked is not the beginning of a request.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// What is known of a connection beyond its bytes; shared with whoever answers.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicU64,
    ended: AtomicU64,
    upgraded: AtomicBool,
    unhurried: AtomicBool,
}

impl Progress {
    /// A request's header has arrived. The request lasts as long as what is returned.
    pub fn request(&self) -> UnderWay {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }

    /// No more HTTP is spoken.
    pub fn is_upgraded(&self) {
        self.0.upgraded.store(true, Ordering::Relaxed);
    }

    /// From now on what is sent may be taken as slowly as the client likes.
    pub fn is_unhurried(&self) {
        self.0.unhurried.store(true, Ordering::Relaxed);
    }

    fn unhurried(&self) -> bool {
        self.upgraded() || self.0.unhurried.load(Ordering::Relaxed)
    }

    fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.begun() == self.0.ended.load(Ordering::Relaxed)
    }

    fn upgraded(&self) -> bool {
        self.0.upgraded.load(Ordering::Relaxed)
    }
}

/// A request from its header to the end of its answer.
#[derive(Debug)]
pub struct UnderWay(Progress);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The socket.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    patience: ClientPatience,
    progress: Progress,
    /// Until when a header must be there, and how many had arrived when it was set.
    header: Alarm,
    arrived: u64,
    /// Until when something must be taken.
    answer: Alarm,
    /// Whether anything was read, and whether that was the beginning of HTTP/2.
    has_begun: bool,
    is_http2: bool,
}

impl<S> Watched<S> {
    /// Of a client from whom nothing has come yet.
    pub fn new(inner: S, patience: ClientPatience, progress: Progress) -> Self {
        let mut header = Alarm::default();
        header.set(patience.header);
        Self {
            inner,
            patience,
            progress,
            header,
            arrived: 0,
            answer: Alarm::default(),
            has_begun: false,
            is_http2: false,
        }
    }

    /// Bytes arrived: between two requests they are the beginning of the next one's header.
    fn note_read(&mut self, bytes: &[u8]) {
        if !self.has_begun && !bytes.is_empty() {
            self.has_begun = true;
            self.is_http2 = bytes.starts_with(HTTP2_PREFACE);
        } else if !bytes.is_empty() && !self.is_http2 && !self.header.is_set() && self.progress.is_idle() {
            self.arrived = self.progress.begun();
            self.header.set(self.patience.header);
        }
    }

    /// Whether the header that is waited for did not come in time.
    fn header_is_late(&mut self, context: &mut Context<'_>) -> bool {
        if self.progress.begun() != self.arrived || self.progress.upgraded() {
            // It came.
            self.header.clear();
        }
        self.header.rings(context)
    }

    /// The result of an attempt to write; one that stays without any for too long is an error.
    fn note_write<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() || self.progress.unhurried() {
            self.answer.clear();
            return result;
        }
        if !self.answer.is_set() {
            self.answer.set(self.patience.answer);
        }
        if self.answer.rings(context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.header_is_late(context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the header did not arrive in time")));
        }
        let filled = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.note_read(&buffer.filled()[filled..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note_write(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.note_write(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// A time that may be waited for.
#[derive(Debug, Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    is_set: bool,
}

impl Alarm {
    fn set(&mut self, after: Duration) {
        self.is_set = true;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(Instant::now() + after),
            None => self.sleep = Some(Box::pin(sleep(after))),
        }
    }

    fn clear(&mut self) {
        self.is_set = false;
    }

    fn is_set(&self) -> bool {
        self.is_set
    }

    fn rings(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.sleep {
            Some(sleep) if self.is_set => sleep.as_mut().poll(context).is_ready(),
            _ => false,
        }
    }
}
