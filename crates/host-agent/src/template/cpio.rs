//! Writes archives in cpio's "newc" format, the one that the kernel unpacks as its initial root. Pure. Times and owners
//! are all zero, so that the same entries always make the same bytes.

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
/// What `cpio` itself pads an archive to.
const BLOCK: usize = 512;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory. Parents come before what they hold.
    pub fn directory(&mut self, path: &str, permissions: u32) {
        self.entry(path, DIRECTORY | permissions, (0, 0), &[]);
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), content);
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER | permissions, (major, minor), &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.header(TRAILER, 0, 0, (0, 0), 0);
        self.pad(BLOCK);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len()).expect("nothing in an initramfs reaches 4 GiB");
        self.entries += 1;
        self.header(path, self.entries, mode, device, size);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn header(&mut self, path: &str, inode: u32, mode: u32, device: (u32, u32), size: u32) {
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let name_size = path.len() as u32 + 1;
        let (owner, group, time, checksum) = (0, 0, 0, 0);
        let fields = [inode, mode, owner, group, links, time, size, 0, 0, device.0, device.1, name_size, checksum];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

/// Reads archives back, for tests.
#[cfg(test)]
pub(super) mod read {
    #[derive(Debug, PartialEq, Eq)]
    pub struct Entry {
        pub path: String,
        pub mode: u32,
        pub device: (u32, u32),
        pub content: Vec<u8>,
    }

    pub fn entries(archive: &[u8]) -> Vec<Entry> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                let digits = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (name, name_size, size) = (at + 110, field(11) as usize, field(6) as usize);
            let content = (name + name_size).next_multiple_of(4);
            assert_eq!(archive[name + name_size - 1], 0);
            let path = String::from_utf8(archive[name..name + name_size - 1].to_vec()).unwrap();
            if path == "TRAILER!!!" {
                assert!(archive[content..].iter().all(|byte| *byte == 0));
                return found;
            }
            found.push(Entry {
                path,
                mode: field(1),
                device: (field(9), field(10)),
                content: archive[content..content + size].to_vec(),
            });
            at = (content + size).next_multiple_of(4);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read::{Entry, entries};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_archive_reads_back_as_what_was_put_in() {
        let mut archive = Archive::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, b"program");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let entry = |path: &str, mode, device, content: &[u8]| Entry {
            path: path.into(),
            mode,
            device,
            content: content.to_vec(),
        };
        assert_eq!(
            entries(&bytes),
            [
                entry("dev", 0o040_755, (0, 0), b""),
                entry("dev/console", 0o020_600, (5, 1), b""),
                entry("init", 0o100_755, (0, 0), b"program"),
            ]
        );
    }

    proptest! {
        #[test]
        fn files_of_every_length_keep_the_archive_aligned(files in prop::collection::vec(("[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..99)), 0..9)) {
            let mut archive = Archive::default();
            for (path, content) in &files {
                archive.file(path, 0o644, content);
            }
            let read: Vec<_> = entries(&archive.finish()).into_iter().map(|entry| (entry.path, entry.content)).collect();
            prop_assert_eq!(read, files);
        }
    }
}
