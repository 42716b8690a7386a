//! The named pipe that is a QEMU's standard error.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// Its name in a machine's directory.
const NAME: &str = "log.pipe";

/// Makes a new one, in place of what an earlier QEMU had. Its writing end blocks, and cannot be read from: whoever has
/// it never waits for a reader that is gone.
pub(super) fn make(directory: &Path) -> io::Result<(Receiver, OwnedFd)> {
    let path = directory.join(NAME);
    let _ = fs::remove_file(&path);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let reader = open(directory)?;
    let writer = fs::File::options().write(true).open(&path)?;
    Ok((reader, writer.into()))
}

/// Reads on where an earlier reader is gone.
pub(super) fn open(directory: &Path) -> io::Result<Receiver> {
    OpenOptions::new().open_receiver(directory.join(NAME))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_reader_that_is_gone_costs_its_writer_nothing_and_the_next_one_reads_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut reader, writer) = make(directory.path()).unwrap();
        let mut writer = fs::File::from(writer);
        let mut buffer = [0; 16];
        writer.write_all(b"first").unwrap();
        let count = reader.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"first");
        drop(reader);
        // More than a pipe holds: one that had no reader and took it all the same would fill up and then block.
        for _ in 0..100 {
            assert_eq!(writer.write_all(&[b'x'; 4096]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
        let mut reader = open(directory.path()).unwrap();
        writer.write_all(b"second").unwrap();
        let count = reader.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"second");
    }
}
