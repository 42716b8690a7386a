//! Where what a process writes comes out: the reading end of a pipe, or our end of a terminal.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use bytes::{BufMut, Bytes};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// The largest piece that is read from a pipe at once.
const PIPE_CHUNK: usize = 32 * 1024;
/// The same of a terminal.
const TERMINAL_CHUNK: usize = 16 * 1024;
/// What the kernel's terminals hand out at once.
const TERMINAL_PIECE: usize = 4 * 1024;
/// Pieces no larger than this are copied, so that a few bytes do not hold a whole chunk.
const SMALL: usize = 4 * 1024;

/// One stream of output.
#[derive(Debug)]
pub struct Source {
    /// None after the end of file.
    reader: Option<Reader>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Reader {
    Pipe(pipe::Receiver),
    /// Read as a pipe is, but never past what is there: a terminal may have more after a short read.
    Terminal(pipe::Receiver),
}

impl Source {
    /// A pipe. Must be called where the runtime can be found.
    pub fn pipe(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self::new(Some(Reader::Pipe(pipe::Receiver::from_owned_fd(fd)?))))
    }

    /// Our end of a terminal. Must be called where the runtime can be found.
    pub fn terminal(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self::new(Some(Reader::Terminal(pipe::Receiver::from_owned_fd_unchecked(fd)?))))
    }

    /// Nothing ever comes.
    pub fn none() -> Self {
        Self::new(None)
    }

    fn new(reader: Option<Reader>) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// Whether there was no end of file yet.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// The next piece, or none at the end of file, after which it never returns. Can be dropped at any time.
    pub async fn read(&mut self) -> Option<Bytes> {
        let read = match &mut self.reader {
            None => return std::future::pending().await,
            Some(Reader::Pipe(pipe)) => {
                self.buffer.reserve(PIPE_CHUNK);
                pipe.read_buf(&mut (&mut self.buffer).limit(PIPE_CHUNK)).await
            }
            Some(Reader::Terminal(terminal)) => read_terminal(terminal, &mut self.buffer).await,
        };
        match read {
            // A terminal that nobody holds any more says so by an error.
            Ok(0) | Err(_) => {
                self.reader = None;
                None
            }
            Ok(_) => Some(self.take()),
        }
    }

    /// How many bytes are there to be read now.
    pub fn waiting(&self) -> u64 {
        match &self.reader {
            None => 0,
            Some(Reader::Pipe(fd) | Reader::Terminal(fd)) => rustix::io::ioctl_fionread(fd).unwrap_or(0),
        }
    }

    fn take(&mut self) -> Bytes {
        if self.buffer.len() > SMALL {
            return std::mem::take(&mut self.buffer).into();
        }
        let chunk = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        chunk
    }
}

async fn read_terminal(terminal: &pipe::Receiver, buffer: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        terminal.readable().await?;
        match read_all_there_is(terminal, buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// In one piece: programs write to terminals in bits.
fn read_all_there_is(terminal: &pipe::Receiver, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut piece = [0; TERMINAL_PIECE];
    while buffer.len() + TERMINAL_PIECE <= TERMINAL_CHUNK {
        match terminal.try_read(&mut piece) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if buffer.is_empty() => return Err(error),
            // What ended the reading is found again by the next.
            Err(_) => break,
        }
    }
    Ok(buffer.len())
}
