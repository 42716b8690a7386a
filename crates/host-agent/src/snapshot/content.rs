//! What a large, sparse file holds, as a digest that does not depend on where its holes are: it stays the same when
//! the file is copied, whatever the file system makes of its zeros, and holes cost no time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::template::{Digest, Hasher};

/// What is looked at as a whole: a page is left out where it holds only zeros.
const PAGE: usize = 4096;

/// What is read at once.
const CHUNK: usize = 1 << 20;

/// The SHA-256 digest of the file's length and of each page that is not all zeros, with where it is.
pub(super) fn digest(file: &File) -> io::Result<Digest> {
    let length = file.metadata()?.len();
    let mut hasher = Hasher::default();
    hasher.update(&length.to_le_bytes());
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    for (start, end) in vmm::memory::extents(file)? {
        // Pages are counted from the file's beginning; the one that an extent begins in may be done already.
        at = start.max(at) / PAGE as u64 * PAGE as u64;
        while at < end {
            let size = usize::try_from(length - at).unwrap_or(usize::MAX).min(CHUNK);
            file.read_exact_at(&mut buffer[..size], at)?;
            for (index, page) in buffer[..size].chunks(PAGE).enumerate() {
                add(&mut hasher, at + (index * PAGE) as u64, page);
            }
            at += size as u64;
        }
    }
    Ok(hasher.finish())
}

fn add(hasher: &mut Hasher, at: u64, page: &[u8]) {
    if page != &[0; PAGE][..page.len()] {
        hasher.update(&at.to_le_bytes());
        hasher.update(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[(u64, &[u8])], length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in content {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn holes_and_zeros_are_the_same_and_nothing_else_is() {
        let one = digest(&file(&[(3 << 20, b"x"), ((9 << 20) + 5, b"y")], 20 << 20)).unwrap();
        let zeros = vec![0; 2 << 20];
        let written = file(&[(3 << 20, &zeros), (12 << 20, &zeros), (3 << 20, b"x"), ((9 << 20) + 5, b"y")], 20 << 20);
        assert_eq!(digest(&written).unwrap(), one);
        let copy = file(&[], 0);
        vmm::memory::copy(&written, &copy).unwrap();
        assert_eq!(digest(&copy).unwrap(), one);
        for other in [
            file(&[(3 << 20, b"x"), ((9 << 20) + 6, b"y")], 20 << 20),
            file(&[(4 << 20, b"x"), ((9 << 20) + 5, b"y")], 20 << 20),
            file(&[(3 << 20, b"x"), ((9 << 20) + 5, b"y")], 21 << 20),
        ] {
            assert_ne!(digest(&other).unwrap(), one);
        }
    }

    #[test]
    fn a_file_that_ends_within_a_page_counts_to_its_end() {
        let short = digest(&file(&[(0, b"state")], 5)).unwrap();
        assert_ne!(short, digest(&file(&[(0, b"stats")], 5)).unwrap());
        assert_ne!(short, digest(&file(&[(0, b"state")], 6)).unwrap());
        assert_ne!(short, digest(&file(&[], 0)).unwrap());
    }
}
