//! Where what a process writes comes out: the reading end of a pipe, or our end of a terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;

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
    Pipe(OwnedFd),
    /// Does not wait: a terminal may have more after a short read, or not.
    Terminal(OwnedFd),
}

impl Source {
    /// A pipe.
    pub fn pipe(fd: OwnedFd) -> Self {
        Self { reader: Some(Reader::Pipe(fd)), buffer: Vec::new() }
    }

    /// Our end of a terminal.
    pub fn terminal(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { reader: Some(Reader::Terminal(fd)), buffer: Vec::new() })
    }

    /// Nothing ever comes.
    pub fn none() -> Self {
        Self { reader: None, buffer: Vec::new() }
    }

    /// What to wait for until there is something to read, as long as there was no end of file.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.reader.as_ref().map(|reader| match reader {
            Reader::Pipe(fd) | Reader::Terminal(fd) => fd.as_fd(),
        })
    }

    /// Whether there was no end of file yet.
    pub fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// What is there to be read. None at the end of file and where nothing is there after all.
    pub fn read(&mut self) -> Option<Bytes> {
        let read = match &self.reader {
            None => return None,
            Some(Reader::Pipe(pipe)) => {
                self.buffer.reserve_exact(PIPE_CHUNK);
                rustix::io::read(pipe, spare_capacity(&mut self.buffer))
            }
            Some(Reader::Terminal(terminal)) => read_all_there_is(terminal, &mut self.buffer),
        };
        match read {
            Err(Errno::INTR | Errno::AGAIN) => None,
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
        self.descriptor().map_or(0, |fd| rustix::io::ioctl_fionread(fd).unwrap_or(0))
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

/// In one piece: programs write to terminals in bits.
fn read_all_there_is(terminal: &OwnedFd, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    let mut piece = [0; TERMINAL_PIECE];
    while buffer.len() + TERMINAL_PIECE <= TERMINAL_CHUNK {
        match rustix::io::read(terminal, &mut piece) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
            Err(Errno::INTR) => {}
            Err(error) if buffer.is_empty() => return Err(error),
            // What ended the reading is found again by the next.
            Err(_) => break,
        }
    }
    Ok(buffer.len())
}
