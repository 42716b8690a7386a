//! Files and directories that are either there in full after a power cut or not at all: written, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::FileError;

/// Makes a file, synced. It must not exist.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(FileError::at("writing", path))
}

/// Makes a JSON file, synced.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(value).expect("manifests are plain data");
    text.push(b'\n');
    write(path, &text)
}

/// Reads a JSON file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let read = || serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from);
    read().map_err(FileError::at("reading", path))
}

/// Renames over whatever file is there, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::at("renaming to", to))?;
    sync_parent(to)
}

/// Moves a finished directory, whose files are synced, to its place. What is there already under that name stays: such
/// names say what is inside.
pub(super) fn publish(staged: &Path, home: &Path) -> Result<(), FileError> {
    sync_directories(staged)?;
    match fs::rename(staged, home) {
        Ok(()) => sync_parent(home),
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
            remove_directory(staged)
        }
        Err(error) => Err(FileError::at("renaming to", home)(error)),
    }
}

/// Makes `link` lead to `target`, in one step for whoever follows it. One caller at a time.
pub(super) fn point(link: &Path, target: &str) -> Result<(), FileError> {
    let mut staged = link.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FileError::at("removing", staged)(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &staged).map_err(FileError::at("linking", &staged))?;
    rename(&staged, link)
}

/// What a directory holds, sorted.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let list = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = list().map_err(FileError::at("listing", directory))?;
    paths.sort();
    Ok(paths)
}

/// A directory and those above it, as far as they are missing.
pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::at("making", path))
}

/// Removes a directory with all it holds.
pub(super) fn remove_directory(path: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(path).map_err(FileError::at("removing", path))
}

fn sync_directories(path: &Path) -> Result<(), FileError> {
    for entry in entries(path)?.iter().filter(|entry| entry.is_dir()) {
        sync_directories(entry)?;
    }
    sync(path)
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), sync)
}

fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(FileError::at("syncing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_swapped_and_a_half_made_one_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("current");
        point(&link, "one").unwrap();
        std::os::unix::fs::symlink("half", directory.path().join("current.new")).unwrap();
        point(&link, "two").unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("two"));
        assert_eq!(entries(directory.path()).unwrap(), [link]);
    }

    #[test]
    fn what_is_published_already_stays() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        for content in ["first", "second"] {
            let staged = directory.path().join("staged");
            fs::create_dir(&staged).unwrap();
            write(&staged.join("file"), content.as_bytes()).unwrap();
            publish(&staged, &home).unwrap();
            assert!(!staged.exists());
        }
        assert_eq!(fs::read_to_string(home.join("file")).unwrap(), "first");
    }
}
