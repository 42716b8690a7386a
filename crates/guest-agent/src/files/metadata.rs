//! What clients attach to files: names and values, kept as extended attributes `user.e2b.*`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

use super::FileError;

const PREFIX: &str = "user.e2b.";
const KEY_LIMIT: usize = 246;
const TOTAL_LIMIT: usize = 4096;
/// The kernel's own limit for the names of one file.
const LIST_LIMIT: usize = 65536;

/// What is attached to a file.
pub type Metadata = BTreeMap<String, String>;

/// Refuses what a file cannot carry.
pub fn check(metadata: &Metadata) -> Result<(), FileError> {
    let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let total: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata.keys().any(|key| key.is_empty() || key.len() > KEY_LIMIT) {
        return Err(FileError::Metadata("keys have 1 to 246 bytes"));
    }
    if metadata.iter().any(|(key, value)| !printable(key) || !printable(value)) {
        return Err(FileError::Metadata("only printable ASCII is allowed"));
    }
    if total > TOTAL_LIMIT {
        return Err(FileError::Metadata("more than 4096 bytes"));
    }
    Ok(())
}

/// What is attached to the file at `path`; nothing where it cannot be read.
pub fn read(path: &Path) -> Metadata {
    let mut list = Vec::new();
    // Most files have none: asked with a small buffer first.
    let names = match listxattr(path, rustix::buffer::spare_capacity(reserved(&mut list, 256))) {
        Err(Errno::RANGE) => listxattr(path, rustix::buffer::spare_capacity(reserved(&mut list, LIST_LIMIT))),
        other => other,
    };
    if names.is_err() {
        return Metadata::new();
    }
    ours(&list)
        .filter_map(|name| {
            let mut value = Vec::new();
            getxattr(path, &name, rustix::buffer::spare_capacity(reserved(&mut value, TOTAL_LIMIT))).ok()?;
            entry(&name, value)
        })
        .collect()
}

/// Attaches `metadata` to the file and takes away what was attached before.
pub fn replace(file: impl AsFd, metadata: &Metadata) -> Result<(), Errno> {
    for name in ours(&names(&file)) {
        fremovexattr(&file, &name)?;
    }
    for (key, value) in metadata {
        fsetxattr(&file, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// Names of all attributes; none where they cannot be asked for.
fn names(file: impl AsFd) -> Vec<u8> {
    let mut list = Vec::new();
    let _ = flistxattr(&file, rustix::buffer::spare_capacity(reserved(&mut list, LIST_LIMIT)));
    list
}

fn reserved(buffer: &mut Vec<u8>, size: usize) -> &mut Vec<u8> {
    buffer.reserve(size);
    buffer
}

fn ours(list: &[u8]) -> impl Iterator<Item = CString> {
    list.split_inclusive(|byte| *byte == 0)
        .filter(|name| name.starts_with(PREFIX.as_bytes()))
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok().map(CStr::to_owned))
}

fn entry(name: &CStr, value: Vec<u8>) -> Option<(String, String)> {
    let key = name.to_str().ok()?.strip_prefix(PREFIX)?;
    Some((key.to_owned(), String::from_utf8(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_contract() {
        let check = |key: &str, value: &str| check(&Metadata::from([(key.to_owned(), value.to_owned())])).is_ok();
        assert!(check("a", "") && check(&"k".repeat(246), "v") && check("k", &"v".repeat(4095)));
        assert!(!check("", "v") && !check(&"k".repeat(247), "v") && !check("k", &"v".repeat(4096)));
        assert!(!check("k", "ä") && !check("k\n", "v"));
    }
}
