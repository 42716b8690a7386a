//! Why a captured virtual machine cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use model::SnapshotId;
use vmm::PlatformMismatch;

/// Why a captured virtual machine cannot be written, read or gone on from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is none of that id.
    #[error("snapshot not found: {0}")]
    NotFound(SnapshotId),
    /// A file of it.
    #[error("{step} {}", path.display())]
    File {
        /// What was done to it.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Its manifest is of another version of this program.
    #[error("its manifest has format {0}, which this program does not read")]
    Format(u32),
    /// It needs something else than this host has.
    #[error(transparent)]
    Platform(#[from] PlatformMismatch),
    /// It is of something else than what is wanted.
    #[error("it was captured with {what} {captured}, and what is wanted has {wanted}")]
    Differs {
        /// The property.
        what: &'static str,
        /// Its value in the manifest.
        captured: String,
        /// Its value here.
        wanted: String,
    },
    /// A file is not the one that was captured.
    #[error("its {file} is damaged: size or digest are not those in its manifest")]
    Damaged {
        /// Which.
        file: String,
    },
}

impl SnapshotError {
    pub(crate) fn at(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { step, path, source }
    }
}
