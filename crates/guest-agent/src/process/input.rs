//! What a process reads. Writers take turns; one that waits for a process that does not read holds up nobody but
//! other writers to that process, and closing ends its wait.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::pty::{self, Size};

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard input.
    Stdin,
    /// The keyboard of a terminal.
    Terminal,
}

/// Why nothing went in.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It was closed, or was never open, or the process ended.
    #[error("standard input of the process is closed")]
    Closed,
    /// Bytes for standard input, but the process has a terminal.
    #[error("the process reads from a terminal, not from standard input")]
    IsTerminal,
    /// Keys for a process without a terminal.
    #[error("the process has no terminal")]
    NoTerminal,
    /// A terminal has no end of file.
    #[error("standard input of a terminal cannot be closed; send Ctrl+D (0x04) instead")]
    CannotClose,
    /// The system refused.
    #[error("write to the process")]
    Write(#[source] io::Error),
    /// The system refused.
    #[error("resize the terminal")]
    Resize(#[source] io::Error),
}

/// Our end of what a process reads.
#[derive(Debug)]
pub struct Input {
    channel: Channel,
    /// None once closed.
    writer: Mutex<Option<Arc<pipe::Sender>>>,
    /// Whose turn it is to write.
    turn: tokio::sync::Mutex<()>,
    closed: watch::Sender<bool>,
}

impl Input {
    /// Nothing can be written.
    pub fn none() -> Self {
        Self::with(Channel::Stdin, None)
    }

    /// Our end of a pipe, or of a terminal. Must be called where the runtime can be found.
    pub fn new(channel: Channel, fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self::with(channel, Some(Arc::new(pipe::Sender::from_owned_fd_unchecked(fd)?))))
    }

    fn with(channel: Channel, writer: Option<Arc<pipe::Sender>>) -> Self {
        Self { channel, writer: Mutex::new(writer), turn: Default::default(), closed: watch::Sender::new(false) }
    }

    /// Returns when the process has, or will find, all of `data`.
    pub async fn write(&self, channel: Channel, data: &[u8]) -> Result<(), InputError> {
        match (channel, self.channel) {
            (Channel::Stdin, Channel::Terminal) => return Err(InputError::IsTerminal),
            (Channel::Terminal, Channel::Stdin) => return Err(InputError::NoTerminal),
            _ => {}
        }
        let mut closed = self.closed.subscribe();
        let _turn = self.turn.lock().await;
        let writer = self.writer().ok_or(InputError::Closed)?;
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(InputError::Closed),
            written = write_all(&writer, data) => written.map_err(InputError::Write),
        }
    }

    /// The process reads an end of file after what was written. Closing again is fine.
    pub fn close_stdin(&self) -> Result<(), InputError> {
        match self.channel {
            Channel::Terminal => Err(InputError::CannotClose),
            Channel::Stdin => {
                self.close();
                Ok(())
            }
        }
    }

    /// Nobody reads any more.
    pub fn close(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.closed.send_replace(true);
    }

    /// Resizes the terminal.
    pub fn resize(&self, size: Size) -> Result<(), InputError> {
        match (self.channel, self.writer()) {
            (Channel::Terminal, Some(terminal)) => pty::resize(&*terminal, size).map_err(InputError::Resize),
            _ => Err(InputError::NoTerminal),
        }
    }

    fn writer(&self) -> Option<Arc<pipe::Sender>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn write_all(writer: &pipe::Sender, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        writer.writable().await?;
        match writer.try_write(data) {
            Ok(written) => data = &data[written..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
