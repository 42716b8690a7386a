//! A guest's memory as a file: taking it out of a monitor that maps a frozen file privately, copying, and giving back
//! what holds only zeros. Works on files and `/proc`; knows nothing of monitors' protocols.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::ProcessIdentity;

/// What is read and written at once.
const CHUNK: usize = 1 << 20;

/// The size of a page on x86-64, the only architecture so far.
const PAGE: usize = 4096;

/// In an entry of `/proc/PID/pagemap`: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// The page is in swap.
const SWAPPED: u64 = 1 << 62;
/// The page belongs to a file, so the process has not changed it.
const OF_FILE: u64 = 1 << 61;

/// Writes over `to`, a copy of `base`, all that a stopped process has changed that maps `base` privately: then `to` is
/// the memory of that process. Returns how many bytes those were. Nothing is made durable.
pub fn write_changes(process: ProcessIdentity, base: &File, to: &File) -> io::Result<u64> {
    let memory = File::open(format!("/proc/{}/mem", process.pid))?;
    let pages = File::open(format!("/proc/{}/pagemap", process.pid))?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid))?;
    // Only now is it certain that the files just opened are of this process and not of a later one with its pid.
    if ProcessIdentity::of(process.pid)? != process {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the monitor has ended"));
    }
    let metadata = base.metadata()?;
    let mut written = 0;
    let mut found = false;
    for mapping in maps.lines().filter_map(Mapping::parse).filter(|mapping| mapping.is_of(&metadata)) {
        found = true;
        written += mapping.write_changes(&memory, &pages, to)?;
    }
    if found { Ok(written) } else { Err(io::Error::new(io::ErrorKind::NotFound, "the monitor does not map the file")) }
}

/// A private mapping of a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    /// Where in the file it begins.
    offset: u64,
    device: (u32, u32),
    inode: u64,
}

impl Mapping {
    /// From a line of `/proc/PID/maps`; none where it is shared.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_private = fields.next()?.ends_with('p');
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let offset = hex(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        let inode = fields.next()?.parse().ok()?;
        is_private.then_some(Self { start: hex(start)?, end: hex(end)?, offset, device, inode })
    }

    fn is_of(&self, file: &std::fs::Metadata) -> bool {
        self.inode == file.ino() && self.device == (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()))
    }

    /// Copies the pages that the process has changed to their places in `to`.
    fn write_changes(&self, memory: &File, pages: &File, to: &File) -> io::Result<u64> {
        let page = PAGE as u64;
        let count = (self.end - self.start) / page;
        let mut entries = vec![0; usize::try_from(count * 8).map_err(io::Error::other)?];
        pages.read_exact_at(&mut entries, self.start / page * 8)?;
        let is_changed = |entry: &[u8]| {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
            entry & SWAPPED != 0 || entry & PRESENT != 0 && entry & OF_FILE == 0
        };
        let changed: Vec<bool> = entries.chunks_exact(8).map(is_changed).collect();
        let mut buffer = vec![0; CHUNK];
        let mut written = 0;
        for (first, length) in runs(&changed, CHUNK / page as usize) {
            let (at, size) = (first as u64 * page, length * page as usize);
            memory.read_exact_at(&mut buffer[..size], self.start + at)?;
            to.write_all_at(&buffer[..size], self.offset + at)?;
            written += size as u64;
        }
        Ok(written)
    }
}

/// Where the true ones are, as first and length, none longer than `longest`.
fn runs(flags: &[bool], longest: usize) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for index in (0..flags.len()).filter(|index| flags[*index]) {
        match runs.last_mut() {
            Some((first, length)) if *first + *length == index && *length < longest => *length += 1,
            _ => runs.push((index, 1)),
        }
    }
    runs
}

/// Makes `to`, an empty file, the same as `from`: sharing its blocks where the file system can, else leaving out what
/// holds nothing.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    for (start, end) in extents(from)? {
        let (mut read, mut write) = (start, start);
        while read < end {
            let size = usize::try_from(end - read).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), size) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // Between file systems the kernel does not copy by itself.
                Err(Errno::XDEV | Errno::OPNOTSUPP) => {
                    copy_by_hand(from, to, read, end)?;
                    read = end;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut at = start;
    while at < end {
        let size = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK);
        from.read_exact_at(&mut buffer[..size], at)?;
        to.write_all_at(&buffer[..size], at)?;
        at += size as u64;
    }
    Ok(())
}

/// Takes room on the disk for all of a file, so that writing to it cannot fail for lack of it.
pub fn reserve(file: &File) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, file.metadata()?.len()) {
        // A file system that cannot promise anything.
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => Ok(result?),
    }
}

/// Smaller gaps are not given back: a guest leaves thousands of them, and each costs the file system a transaction.
const SMALLEST_GAP: u64 = 1 << 20;

/// Gives back most of what was reserved and never written.
pub fn release(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut at = 0;
    for (start, end) in extents(file)?.into_iter().chain([(length, length)]) {
        if start - at >= SMALLEST_GAP {
            punch(file, at, start - at)?;
        }
        at = end;
    }
    Ok(())
}

fn punch(file: &File, at: u64, length: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length)?)
}

/// Gives the blocks back that hold only zeros. Returns how many bytes.
pub fn punch_zeros(file: &File) -> io::Result<u64> {
    let page = PAGE;
    let mut buffer = vec![0; CHUNK];
    let mut given_back = 0;
    for (start, end) in extents(file)? {
        let mut at = start;
        while at < end {
            let size = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK);
            file.read_exact_at(&mut buffer[..size], at)?;
            let zeros: Vec<bool> = buffer[..size].chunks(page).map(is_zero).collect();
            for (first, length) in runs(&zeros, zeros.len()) {
                let (offset, bytes) = (at + (first * page) as u64, (length * page) as u64);
                punch(file, offset, bytes)?;
                given_back += bytes;
            }
            at += size as u64;
        }
    }
    Ok(given_back)
}

fn is_zero(page: &[u8]) -> bool {
    page == &[0; PAGE][..page.len()]
}

/// How much of a file holds something.
pub fn data_bytes(file: &File) -> io::Result<u64> {
    Ok(extents(file)?.into_iter().map(|(start, end)| end - start).sum())
}

/// How much memory a process has that is its alone, and so is not in any file.
pub fn private_bytes(process: ProcessIdentity) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other("the process does not say"))
}

/// The parts of a file that hold something, as start and end.
pub fn extents(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(extents),
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        extents.push((start, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: &tempfile::TempDir, name: &str) -> File {
        File::options().read(true).write(true).create_new(true).open(directory.path().join(name)).unwrap()
    }

    #[test]
    fn only_private_mappings_are_taken() {
        let line = "7f0000000000-7f0020000000 rw-p 00001000 fe:01 1234    /memory";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.offset, mapping.device, mapping.inode), (0x1000, (0xfe, 1), 1234));
        assert_eq!(mapping.end - mapping.start, 0x2000_0000);
        assert_eq!(Mapping::parse("7f0000000000-7f0020000000 rw-s 00000000 fe:01 1234 /memory"), None);
        assert_eq!(Mapping::parse("garbage"), None);
    }

    #[test]
    fn runs_are_cut_at_the_longest() {
        let flags = [true, true, true, false, true];
        assert_eq!(runs(&flags, 2), [(0, 2), (2, 1), (4, 1)]);
        assert_eq!(runs(&[], 2), []);
    }

    #[test]
    fn a_copy_is_the_same_and_as_sparse() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (file(&directory, "from"), file(&directory, "to"));
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"middle", 20 << 20).unwrap();
        copy(&from, &to).unwrap();
        assert!((6..=1 << 20).contains(&data_bytes(&to).unwrap()));
        let mut found = [0; 6];
        to.read_exact_at(&mut found, 20 << 20).unwrap();
        assert_eq!(&found, b"middle");
        let metadata = to.metadata().unwrap();
        assert_eq!(metadata.len(), 64 << 20);
        assert!(metadata.blocks() * 512 <= 1 << 20, "{} blocks", metadata.blocks());
    }

    #[test]
    fn a_copy_by_hand_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (file(&directory, "from"), file(&directory, "to"));
        let content: Vec<u8> = (0..(CHUNK as u32 / 2)).flat_map(|number| number.to_le_bytes()).collect();
        from.write_all_at(&content, 0).unwrap();
        copy_by_hand(&from, &to, 0, content.len() as u64 - 1).unwrap();
        let mut found = vec![0; content.len() - 1];
        to.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content[..content.len() - 1] && to.metadata().unwrap().len() == found.len() as u64);
    }

    #[test]
    fn zeros_are_given_back_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory, "memory");
        let mut content = vec![0; 4 << 20];
        content[5000] = 7;
        content[3 << 20] = 8;
        file.write_all_at(&content, 0).unwrap();
        let given_back = punch_zeros(&file).unwrap();
        assert_eq!(given_back, (4 << 20) - 2 * 4096);
        let mut found = vec![1; content.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == content);
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn what_was_reserved_can_be_given_back_without_loss() {
        let directory = tempfile::tempdir().unwrap();
        let file = file(&directory, "memory");
        file.set_len(16 << 20).unwrap();
        reserve(&file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= 16 << 20);
        file.write_all_at(b"kept", 5 << 20).unwrap();
        file.sync_all().unwrap();
        release(&file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
        let mut found = [0; 4];
        file.read_exact_at(&mut found, 5 << 20).unwrap();
        assert_eq!((&found, file.metadata().unwrap().len()), (b"kept", 16 << 20));
    }

    #[test]
    fn a_process_that_does_not_map_the_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (base, to) = (file(&directory, "base"), file(&directory, "to"));
        let own = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(write_changes(own, &base, &to).unwrap_err().kind(), io::ErrorKind::NotFound);
        let other = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        assert!(write_changes(other, &base, &to).is_err());
        assert!(private_bytes(own).unwrap() > 0);
    }
}
