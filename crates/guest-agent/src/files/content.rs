//! Opens files for reading and writing. Only regular ones: opening a pipe, a terminal or a device can block, or do
//! things.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::time::SystemTime;

use super::error::FileError;
use super::metadata::{self, Metadata};
use super::rights::with_rights_of;
use super::tree::make_parents;
use crate::users::User;

/// Never wait for the other end of a pipe, never become the owner of a terminal.
const FLAGS: i32 = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

/// A file that can be read.
#[derive(Debug)]
pub struct Readable {
    /// The file, at its beginning.
    pub file: File,
    /// Its size; 0 also for files that the kernel makes up while they are read.
    pub size: u64,
    /// Its last change, where the file system knows it.
    pub modified: Option<SystemTime>,
}

/// Opens the file at `path` for reading.
pub fn open(user: &User, path: &str) -> Result<Readable, FileError> {
    let file = with_rights_of(user, || {
        check_regular(path, &std::fs::metadata(path).map_err(FileError::on("stat", path))?)?;
        open_with(path, OpenOptions::new().read(true))
    })
    .map_err(FileError::on("take on the user's rights for", path))??;
    let found = file.metadata().map_err(FileError::on("stat", path))?;
    check_regular(path, &found)?;
    Ok(Readable { file, size: found.len(), modified: found.modified().ok() })
}

/// Opens the file at `path` for writing, empty, with the directories above it. It is written in place and becomes the
/// user's, also when it was somebody else's whom the user may write to: so says the contract.
pub fn create(user: &User, path: &str, metadata: &Metadata) -> Result<File, FileError> {
    let file = with_rights_of(user, || open_for_writing(path))
        .map_err(FileError::on("take on the user's rights for", path))??;
    let found = file.metadata().map_err(FileError::on("stat", path))?;
    check_regular(path, &found)?;
    // Also when it is the user's already: who watches the directory is told create, attributes, write in this order.
    let owned = fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    if (found.uid(), found.gid()) != (user.uid.as_raw(), user.gid.as_raw()) {
        owned.map_err(FileError::on("change the owner of", path))?;
    }
    if found.len() > 0 {
        file.set_len(0).map_err(FileError::on("empty", path))?;
    }
    attach(&file, path, metadata)?;
    Ok(file)
}

fn attach(file: &File, path: &str, metadata: &Metadata) -> Result<(), FileError> {
    metadata::check(metadata)?;
    match metadata::replace(file, metadata) {
        // Some file systems have no attributes; without metadata nothing is lost.
        Err(_) if metadata.is_empty() => Ok(()),
        result => result.map_err(FileError::on("attach metadata to", path)),
    }
}

fn open_for_writing(path: &str) -> Result<File, FileError> {
    match std::fs::metadata(path) {
        Ok(found) => check_regular(path, &found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_parents(path)?,
        Err(error) => return Err(FileError::on("stat", path)(error)),
    }
    open_with(path, OpenOptions::new().write(true).create(true).truncate(false).mode(0o666))
}

fn open_with(path: &str, options: &mut OpenOptions) -> Result<File, FileError> {
    options.custom_flags(FLAGS).open(path).map_err(FileError::on("open", path))
}

fn check_regular(path: &str, found: &std::fs::Metadata) -> Result<(), FileError> {
    match found.file_type() {
        kind if kind.is_file() => Ok(()),
        kind if kind.is_dir() => Err(FileError::IsADirectory(path.to_owned())),
        _ => Err(FileError::NotRegular(path.to_owned())),
    }
}
