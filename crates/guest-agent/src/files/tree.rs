//! Looks at and changes the tree of directories.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::entry::{self, Entry, Kind};
use super::error::FileError;
use super::rights::with_rights_of;
use crate::users::{Names, User};

/// What is at `path`.
pub fn stat(user: &User, path: &str) -> Result<Entry, FileError> {
    as_user(user, path, || entry::describe(path, &Names::read()))
}

/// What is below the directory at `path`, `depth` levels deep, in lexical order with each directory before its
/// content. Links are not followed, except `path` itself.
pub fn list(user: &User, path: &str, depth: u32) -> Result<Vec<Entry>, FileError> {
    as_user(user, path, || {
        let names = Names::read();
        let mut entries = Vec::new();
        for name in children(path).map_err(FileError::on("list", path))? {
            walk(format!("{}/{name}", path.trim_end_matches('/')), depth.max(1), &names, &mut entries);
        }
        Ok(entries)
    })
}

/// Makes a directory and those above it.
pub fn make_directory(user: &User, path: &str) -> Result<Entry, FileError> {
    as_user(user, path, || {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(FileError::AlreadyExists(path.to_owned())),
            Ok(_) => return Err(FileError::NotADirectory(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::on("stat", path)(error)),
        }
        fs::create_dir_all(path).map_err(FileError::on("make directory", path))?;
        entry::describe(path, &Names::read())
    })
}

/// Removes what is at `path` with all that is below. Nothing there is fine.
pub fn remove(user: &User, path: &str) -> Result<(), FileError> {
    as_user(user, path, || match unlink(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    })
}

/// Moves what is at `source`, also to another file system; makes the directories above `destination`.
pub fn rename(user: &User, source: &str, destination: &str) -> Result<Entry, FileError> {
    as_user(user, source, || {
        fs::symlink_metadata(source).map_err(FileError::on("stat", source))?;
        make_parents(destination)?;
        match fs::rename(source, destination) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                copy(Path::new(source), Path::new(destination)).map_err(FileError::on("move to", destination))?;
                unlink(source).map_err(FileError::on("remove", source))?;
            }
            result => result.map_err(FileError::on("move to", destination))?,
        }
        entry::describe(destination, &Names::read())
    })
}

/// Makes the directories above `path`, for the user whose rights the thread has.
pub fn make_parents(path: &str) -> Result<(), FileError> {
    let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(FileError::on("make directory", &parent.to_string_lossy()))
}

fn as_user<T>(user: &User, path: &str, work: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    with_rights_of(user, work).map_err(FileError::on("take on the user's rights for", path))?
}

/// Entries that vanish meanwhile, and directories that the user may not read, are left out.
fn walk(path: String, depth: u32, names: &Names, entries: &mut Vec<Entry>) {
    let Ok(entry) = entry::describe(&path, names) else { return };
    let inside = depth > 1 && entry.kind == Kind::Directory && entry.symlink_target.is_none();
    entries.push(entry);
    if inside {
        for name in children(&path).unwrap_or_default() {
            walk(format!("{path}/{name}"), depth - 1, names, entries);
        }
    }
}

fn children(path: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn unlink(path: &str) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn copy(source: &Path, destination: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(source)?.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(source)?, destination);
    }
    if kind.is_file() {
        return fs::copy(source, destination).map(drop);
    }
    if !kind.is_dir() {
        return Err(ErrorKind::CrossesDevices.into());
    }
    fs::create_dir(destination)?;
    for entry in fs::read_dir(source)? {
        let name = entry?.file_name();
        copy(&source.join(&name), &destination.join(&name))?;
    }
    fs::set_permissions(destination, fs::metadata(source)?.permissions())
}
