//! What there is to say about one file, directory or link.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::metadata::{self, Metadata};
use super::{FileError, path};
use crate::users::Names;

/// What something is, links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A broken link, a pipe, a socket or a device.
    Other,
}

/// A file, a directory or a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Last part of the path.
    pub name: String,
    /// What it is; of a link, what that leads to.
    pub kind: Kind,
    /// As it was asked for.
    pub path: String,
    /// In bytes, of a link its own.
    pub size: i64,
    /// Permission bits; of a link, of what it leads to.
    pub mode: u32,
    /// Type and permissions as text, of the entry itself.
    pub permissions: String,
    /// Name of the owner, or its number.
    pub owner: String,
    /// Name of the group, or its number.
    pub group: String,
    /// Last change of the content: seconds and nanoseconds.
    pub modified: (i64, i32),
    /// Where a link leads to in the end; its own path when it leads nowhere.
    pub symlink_target: Option<String>,
    /// What clients attached.
    pub metadata: Metadata,
}

/// Looks at what is at `path`.
pub fn describe(path: &str, names: &Names) -> Result<Entry, FileError> {
    let own = fs::symlink_metadata(path).map_err(FileError::on("stat", path))?;
    let is_link = own.file_type().is_symlink();
    let target = if is_link { fs::metadata(path).ok() } else { Some(own.clone()) };
    let symlink_target = is_link.then(|| fs::canonicalize(path).ok());
    Ok(Entry {
        name: path::base_name(path).to_owned(),
        kind: target.as_ref().map_or(Kind::Other, kind),
        path: path.to_owned(),
        size: own.len().try_into().unwrap_or(i64::MAX),
        mode: target.as_ref().unwrap_or(&own).mode() & 0o777,
        permissions: permissions(&own),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified: (own.mtime(), own.mtime_nsec().try_into().unwrap_or_default()),
        symlink_target: symlink_target.map(|target| target.map_or(path.to_owned(), lossy)),
        metadata: target.map(|_| metadata::read(Path::new(path))).unwrap_or_default(),
    })
}

fn lossy(path: std::path::PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

fn kind(metadata: &fs::Metadata) -> Kind {
    match metadata.file_type() {
        kind if kind.is_file() => Kind::File,
        kind if kind.is_dir() => Kind::Directory,
        _ => Kind::Other,
    }
}

/// The mode as Go's standard library writes it, which is what clients of the contract know: letters for the type and
/// the special bits, then nine for the permissions.
fn permissions(metadata: &fs::Metadata) -> String {
    let (kind, mode) = (metadata.file_type(), metadata.mode());
    let letters = [
        ('d', kind.is_dir()),
        ('L', kind.is_symlink()),
        ('D', kind.is_block_device() || kind.is_char_device()),
        ('p', kind.is_fifo()),
        ('S', kind.is_socket()),
        ('u', mode & 0o4000 != 0),
        ('g', mode & 0o2000 != 0),
        ('c', kind.is_char_device()),
        ('t', mode & 0o1000 != 0),
    ];
    let mut text: String = letters.iter().filter(|(_, set)| *set).map(|(letter, _)| letter).collect();
    if text.is_empty() {
        text.push('-');
    }
    let bits = "rwxrwxrwx".chars().enumerate();
    text.extend(bits.map(|(index, letter)| if mode & (0o400 >> index) != 0 { letter } else { '-' }));
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn look(path: &Path) -> Entry {
        describe(path.to_str().unwrap(), &Names::read()).unwrap()
    }

    #[test]
    fn modes_are_written_as_in_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "abc").unwrap();
        let check = |path: &Path, mode: u32, expect: &str| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(look(path).permissions, expect);
        };
        check(&file, 0o644, "-rw-r--r--");
        check(&file, 0o4755, "urwxr-xr-x");
        check(dir.path(), 0o1777, "dtrwxrwxrwx");
        assert_eq!(look(Path::new("/dev/null")).permissions, "Dcrw-rw-rw-");
    }

    #[test]
    fn a_link_tells_of_its_target_and_of_itself() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (file, link, broken) = (base.join("f"), base.join("l"), base.join("b"));
        fs::write(&file, "abc").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        symlink("f", &link).unwrap();
        symlink("nowhere", &broken).unwrap();
        let entry = look(&link);
        assert_eq!((entry.kind, entry.mode, entry.permissions.as_str()), (Kind::File, 0o600, "Lrwxrwxrwx"));
        assert_eq!(entry.symlink_target.as_deref(), file.to_str());
        let entry = look(&broken);
        assert_eq!((entry.kind, entry.symlink_target.as_deref()), (Kind::Other, broken.to_str()));
    }
}
