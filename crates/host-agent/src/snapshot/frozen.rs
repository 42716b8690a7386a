//! A captured virtual machine that others may go on from: files that nobody may write, taken by hard links.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::Extent;
use serde::{Deserialize, Serialize};

use super::{EMPTY_OVERLAY, MEMORY, Manifest, OVERLAY, Origin, STATE, SnapshotError, manifest};
use crate::template::Digest;

/// A baked image or a snapshot. Its files may be removed at any time: take what is needed by hard links.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// Where its files are.
    pub(super) directory: PathBuf,
    /// What is known of it.
    pub manifest: Manifest,
}

/// A frozen overlay in a directory of whoever needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The file's name.
    pub name: String,
    /// What the file holds.
    pub digest: Digest,
}

impl Layer {
    /// Reads all of it and compares it with what was frozen.
    pub fn verify(&self, directory: &Path) -> Result<(), SnapshotError> {
        manifest::verify(directory, &self.name, Some(&self.digest))
    }
}

/// The name of the layer with so many under it.
pub fn layer_name(below: usize) -> String {
    format!("layer{below}.qcow2")
}

impl Frozen {
    /// Devices and vCPUs.
    pub fn state(&self) -> PathBuf {
        self.directory.join(STATE)
    }

    /// The guest's memory.
    pub fn memory(&self) -> PathBuf {
        self.directory.join(MEMORY)
    }

    /// An overlay to begin with.
    pub fn empty_overlay(&self) -> PathBuf {
        self.directory.join(EMPTY_OVERLAY)
    }

    /// Gives `directory` the layers that a sandbox has which goes on from here: those that were under the captured
    /// overlay, and that overlay itself.
    pub fn link_layers(&self, directory: &Path) -> Result<Vec<Layer>, SnapshotError> {
        let names = self.manifest.layers.iter().map(String::as_str).chain([OVERLAY]);
        let link_one = |(below, name): (usize, &str)| {
            let damaged = || SnapshotError::Damaged { file: name.to_owned() };
            let digest = self.manifest.files.get(name).cloned().ok_or_else(damaged)?;
            let layer = Layer { name: layer_name(below), digest };
            let from = self.directory.join(name);
            link(&from, &directory.join(&layer.name)).map_err(SnapshotError::at("link", &from))?;
            Ok(layer)
        };
        names.enumerate().map(link_one).collect()
    }

    /// How much of it was captured.
    pub fn extent(&self) -> Extent {
        if self.manifest.files.contains_key(STATE) { Extent::Full } else { Extent::Disk }
    }

    /// Checks that it is there, whole, and can go on as `wanted`.
    pub fn check(&self, wanted: &Origin) -> Result<(), SnapshotError> {
        match self.extent() {
            Extent::Full => Manifest::open(&self.directory, &self.memory(), wanted).map(drop),
            Extent::Disk => self.manifest.origin.check_disk(wanted),
        }
    }

    /// Reads all of it and compares it with what was captured.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        self.manifest.verify(&self.directory)
    }

    /// What its files take on the disk, also where others share them.
    pub fn size_bytes(&self) -> u64 {
        size_of(&self.directory)
    }
}

/// What the files in a directory take on the disk.
pub(super) fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

/// Everyone may read it, nobody may write it, and it survives a power cut.
pub fn seal(path: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(0), Some(0))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
    File::open(path)?.sync_all()
}

/// Another name for a file, so that it stays when the first name goes; a copy where names cannot be shared.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let copy = File::options().read(true).write(true).create_new(true).open(to)?;
            vmm::memory::copy(&File::open(from)?, &copy)?;
            seal(to)
        }
        result => result,
    }
}
