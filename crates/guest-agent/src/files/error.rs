//! What can go wrong with a file, apart from what the transports make of it.

use std::io;

use rustix::io::Errno;

use super::path::PathError;

/// Why something with a path was not done.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The text is not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Nothing is there.
    #[error("path '{0}' does not exist")]
    NotFound(String),
    /// A directory is there already.
    #[error("directory '{0}' already exists")]
    AlreadyExists(String),
    /// A directory was needed.
    #[error("path '{0}' is not a directory")]
    NotADirectory(String),
    /// A file was needed.
    #[error("path '{0}' is a directory")]
    IsADirectory(String),
    /// A regular file was needed: a pipe or a device could block for ever.
    #[error("path '{0}' is not a regular file")]
    NotRegular(String),
    /// What happens there on other machines is not seen here.
    #[error("path '{0}' is on a network mount")]
    NetworkMount(String),
    /// The user may not.
    #[error("permission denied: '{0}'")]
    PermissionDenied(String),
    /// Links that lead back to themselves.
    #[error("path '{0}' is a cyclic link")]
    CyclicLink(String),
    /// The disk is full.
    #[error("no space left for '{0}'")]
    NoSpace(String),
    /// What the kernel lets a user watch is watched already.
    #[error("cannot watch '{0}': too much is watched already")]
    TooManyWatches(String),
    /// Metadata that a file cannot carry.
    #[error("metadata: {0}")]
    Metadata(&'static str),
    /// Anything else.
    #[error("{action} '{path}'")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl FileError {
    /// For mapping the errors of `action` on `path`.
    pub fn on<E: Into<io::Error>>(action: &'static str, path: &str) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |error| Self::new(action, path, error.into())
    }

    fn new(action: &'static str, path: String, source: io::Error) -> Self {
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Self::NotFound(path),
            Some(Errno::NOTDIR) => Self::NotADirectory(path),
            Some(Errno::ISDIR) => Self::IsADirectory(path),
            // A pipe without a reader and a device without a driver.
            Some(Errno::NXIO | Errno::NODEV) => Self::NotRegular(path),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Self::PermissionDenied(path),
            Some(Errno::LOOP) => Self::CyclicLink(path),
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace(path),
            _ => Self::Io { action, path, source },
        }
    }
}
