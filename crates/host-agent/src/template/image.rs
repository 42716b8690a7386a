//! The image of a root disk: an ext4 file system in a sparse file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use model::DiskMb;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::bootstrap::EPOCH;
use super::digest::{Digest, Hasher};
use super::error::{BuildError, FileError};
use super::tool::{Runner, Tool};

const CHUNK: u64 = 64 << 10;

/// What a finished image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFacts {
    /// SHA-256 over the size and every 64 KiB chunk that is not all zero, each with its offset before it, all numbers
    /// as 64-bit little-endian.
    pub digest: Digest,
    /// The size that the guest sees.
    pub bytes: u64,
    /// The room that it takes on the host.
    pub allocated_bytes: u64,
}

/// Makes `image` from `tree`. A journal, because a paused sandbox's disk must survive a power cut; a small one,
/// because it is written to every overlay. `identity` decides what would otherwise be random.
pub(super) async fn make(
    runner: &Runner<'_>,
    tree: &Path,
    image: &Path,
    size: DiskMb,
    identity: &Digest,
) -> Result<(), BuildError> {
    let uuid = uuid(identity);
    let arrange = |command: &mut Command| {
        command.args(["-q", "-t", "ext4", "-F", "-m", "0", "-J", "size=16", "-L", "root", "-U", &uuid]);
        // Inode tables that were left for later would be zeroed by each guest, into its overlay.
        command.args(["-E", &format!("hash_seed={uuid},root_owner=0:0,lazy_itable_init=0")]);
        command.arg("-d").arg(tree).arg(image).arg(format!("{size}M"));
        command.env("SOURCE_DATE_EPOCH", EPOCH).env("E2FSPROGS_FAKE_TIME", EPOCH);
    };
    runner.run(Tool::Mke2fs, arrange, |_| {}).await.map(drop)
}

/// A random-looking UUID (version 4) that is the same for the same digest.
fn uuid(identity: &Digest) -> String {
    let hex = identity.as_str();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// Gives the room of all-zero parts back to the host, makes the rest durable and takes its digest.
pub(super) fn seal(path: &Path) -> Result<ImageFacts, FileError> {
    seal_file(path).map_err(FileError::at("sealing", path))
}

fn seal_file(path: &Path) -> io::Result<ImageFacts> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let bytes = file.metadata()?.len();
    let mut hasher = Hasher::default();
    hasher.update(&bytes.to_le_bytes());
    let mut chunk = vec![0; CHUNK as usize];
    let mut at = 0;
    while at < bytes {
        // What lies between data reads as zeros and may have room all the same.
        let data = next_data(&file, at)?.map_or(bytes, |data| data - data % CHUNK);
        punch(&file, at, data - at)?;
        let content = &mut chunk[..CHUNK.min(bytes - data) as usize];
        file.read_exact_at(content, data)?;
        if content.iter().all(|byte| *byte == 0) {
            punch(&file, data, content.len() as u64)?;
        } else {
            hasher.update(&data.to_le_bytes());
            hasher.update(content);
        }
        at = data + content.len() as u64;
    }
    file.sync_all()?;
    let allocated_bytes = file.metadata()?.blocks() * 512;
    Ok(ImageFacts { digest: hasher.finish(), bytes, allocated_bytes })
}

/// The first offset from `at` on that may hold data.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file system without holes keeps the zeros.
fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
        Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether `path` begins like an ext4 file system and is as long as that says; otherwise what is wrong.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let describe = |error: io::Error| format!("its image cannot be read ({error})");
    let file = File::open(path).map_err(describe)?;
    let length = file.metadata().map_err(describe)?.len();
    let mut superblock = [0; 64];
    file.read_exact_at(&mut superblock, 1024).map_err(describe)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| superblock[at + byte]));
    if word(56) & 0xffff != 0xef53 {
        return Err("its image is not an ext4 file system".into());
    }
    let block_size = 1024_u64.checked_shl(word(24)).filter(|size| *size <= 65536);
    match block_size.map(|size| size * u64::from(word(4))) {
        Some(needed) if needed <= length => Ok(()),
        _ => Err("its image is cut short".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sparse file with `content` at the given offsets.
    fn sparse(length: u64, content: &[(u64, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(length).unwrap();
        for (offset, bytes) in content {
            file.as_file().write_all_at(bytes, *offset).unwrap();
        }
        file
    }

    #[test]
    fn written_zeros_and_holes_are_the_same_image() {
        let holes = sparse(3 << 20, &[(1 << 20, b"data")]);
        let zeros = sparse(3 << 20, &[(0, &[0; 512 << 10]), (1 << 20, b"data"), ((2 << 20) + 5, &[0; 99_999])]);
        let reserved = sparse(3 << 20, &[(1 << 20, b"data")]);
        fallocate(reserved.as_file(), FallocateFlags::empty(), 0, 3 << 20).unwrap();
        let [holes, zeros, reserved] = [holes, zeros, reserved].map(|file| seal(file.path()).unwrap());
        assert_eq!((&zeros.digest, &reserved.digest), (&holes.digest, &holes.digest));
        for facts in [holes, zeros, reserved] {
            assert!(facts.allocated_bytes <= 2 * CHUNK, "{facts:?}");
        }
    }

    #[test]
    fn what_differs_in_one_byte_its_place_or_its_length_has_another_digest() {
        let digest = |length, offset, bytes: &[u8]| seal(sparse(length, &[(offset, bytes)]).path()).unwrap().digest;
        let one = digest(1 << 20, 0, b"a");
        assert_ne!(one, digest(1 << 20, 0, b"b"));
        assert_ne!(one, digest(1 << 20, CHUNK, b"a"));
        assert_ne!(one, digest(2 << 20, 0, b"a"));
    }

    #[test]
    fn sealing_changes_no_content_where_the_length_is_odd() {
        let file = sparse(CHUNK * 2 + 77, &[(CHUNK + 3, b"middle"), (CHUNK * 2 + 70, b"endings")]);
        let before = std::fs::read(file.path()).unwrap();
        seal(file.path()).unwrap();
        assert!(std::fs::read(file.path()).unwrap() == before);
    }

    #[test]
    fn only_a_whole_ext4_file_system_passes() {
        let superblock = |magic: &[u8], blocks: u32| {
            let blocks = blocks.to_le_bytes();
            sparse(1 << 20, &[(1024 + 4, &blocks), (1024 + 24, &2_u32.to_le_bytes()), (1024 + 56, magic)])
        };
        assert_eq!(check(superblock(&[0x53, 0xef], 256).path()), Ok(()));
        let is_refused = |file: tempfile::NamedTempFile, word: &str| {
            let reason = check(file.path()).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        };
        is_refused(superblock(&[0x53, 0xef], 257), "cut short");
        is_refused(superblock(b"no", 256), "not an ext4");
        is_refused(sparse(100, &[]), "cannot be read");
    }

    #[test]
    fn an_identity_is_a_uuid() {
        let uuid = uuid(&Digest::of(b"abc"));
        assert_eq!(uuid, "ba7816bf-8f01-4fea-8141-40de5dae2223".replace("4fea-8141", &uuid[14..23]));
        assert_eq!((uuid.len(), &uuid[14..15], &uuid[19..20]), (36, "4", "8"));
    }
}
