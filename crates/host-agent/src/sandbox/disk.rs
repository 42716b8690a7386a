//! What a sandbox takes on the host's disk.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The bytes that the files of a sandbox's directory take. Those that others have too, under names of their own, are
/// nobody's alone and are not counted. Files come and go meanwhile: what is gone takes nothing.
pub(super) fn own_bytes(directory: &Path) -> u64 {
    walk(directory).unwrap_or(0)
}

fn walk(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let Ok(entry) = entry else { continue };
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += match metadata {
            metadata if metadata.is_dir() => walk(&entry.path()).unwrap_or(0),
            metadata if metadata.is_file() && metadata.nlink() == 1 => metadata.blocks() * 512,
            _ => 0,
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_or_a_hole_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own");
        fs::create_dir_all(own.join("paused")).unwrap();
        assert_eq!(own_bytes(&own), 0);
        fs::write(own.join("overlay"), vec![1; 1 << 20]).unwrap();
        fs::write(own.join("paused/state"), vec![1; 1 << 20]).unwrap();
        fs::File::create(own.join("memory")).unwrap().set_len(1 << 30).unwrap();
        fs::write(directory.path().join("frozen"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(directory.path().join("frozen"), own.join("layer0")).unwrap();
        let bytes = own_bytes(&own);
        assert!((2 << 20..(2 << 20) + (64 << 10)).contains(&bytes), "{bytes}");
        assert_eq!(own_bytes(&directory.path().join("none")), 0);
    }
}
