//! What everything in a data directory takes of its disk. Reads the file system and nothing else: knows which directory
//! holds what, not what any of it is in.

mod prune;
mod walk;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use prune::{PruneError, look, plan, prune};
use walk::Walk;

/// What a part of the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskKind {
    /// A copy of a virtual machine monitor.
    Monitor,
    /// A guest kernel, with its initramfs.
    Kernel,
    /// A build of a template.
    Template,
    /// A baked image.
    Bake,
    /// A snapshot.
    Snapshot,
    /// A sandbox.
    Sandbox,
    /// Packages of earlier builds.
    Cache,
}

/// What one thing takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUse {
    /// What it is.
    pub kind: DiskKind,
    /// Which one.
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// What is allocated to its files. One that a thing before it in the list has too is not counted again.
    pub bytes: u64,
}

/// The file system that the data directory is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Its size in bytes.
    pub total: u64,
    /// What of it can still be used.
    pub free: u64,
}

impl DiskKind {
    /// In the order in which a file with several names is looked for: what is kept longest comes first.
    const ALL: [Self; 7] =
        [Self::Monitor, Self::Kernel, Self::Template, Self::Bake, Self::Snapshot, Self::Sandbox, Self::Cache];

    /// Its name in RPC and API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Kernel => "kernel",
            Self::Template => "template",
            Self::Bake => "bake",
            Self::Snapshot => "snapshot",
            Self::Sandbox => "sandbox",
            Self::Cache => "cache",
        }
    }

    /// The directory that holds all of the kind, and how deep in it each one is.
    fn place(self) -> (&'static str, usize) {
        match self {
            Self::Monitor => ("vmm", 1),
            Self::Kernel => ("boot", 1),
            Self::Template => ("templates", 2),
            Self::Bake => ("bakes", 1),
            Self::Snapshot => ("snapshots", 1),
            Self::Sandbox => ("sandboxes", 1),
            Self::Cache => ("cache", 1),
        }
    }
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything in `data_dir`, by kind and then by name. What disappears meanwhile counts as nothing.
fn uses(data_dir: &Path) -> io::Result<Vec<DiskUse>> {
    let mut walk = Walk::default();
    let mut uses = Vec::new();
    for kind in DiskKind::ALL {
        let (directory, depth) = kind.place();
        let home = data_dir.join(directory);
        for path in entries(&home, depth)? {
            let id = path.strip_prefix(&home).unwrap_or(&path).to_string_lossy().into_owned();
            uses.push(DiskUse { kind, id, bytes: walk.bytes(&path)?, path });
        }
    }
    Ok(uses)
}

/// The file system that `data_dir` is on.
pub fn room(data_dir: &Path) -> io::Result<Room> {
    let file_system = rustix::fs::statvfs(data_dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(file_system.f_frsize);
    Ok(Room { total: bytes(file_system.f_blocks), free: bytes(file_system.f_bavail) })
}

/// The directories `depth` below `home`, sorted. Names that begin with a dot are ours and no things; links are not
/// followed.
fn entries(home: &Path, depth: usize) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in walk::unless_gone(fs::read_dir(home))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") || !entry.file_type()?.is_dir() {
            continue;
        }
        match depth {
            1 => found.push(entry.path()),
            _ => found.extend(entries(&entry.path(), depth - 1)?),
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, kilobytes: usize) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![1; kilobytes << 10]).unwrap();
        path
    }

    #[test]
    fn a_shared_file_is_counted_once_with_what_is_kept_longest() {
        let data_dir = tempfile::tempdir().unwrap();
        let at = |path: &str| data_dir.path().join(path);
        let image = file(at("templates/minimal/b1/rootfs.ext4"), 512);
        file(at("templates/.staging-1/rootfs.ext4"), 512);
        fs::create_dir_all(at("templates/other/b2")).unwrap();
        fs::hard_link(&image, at("templates/other/b2/rootfs.ext4")).unwrap();
        let memory = file(at("bakes/one/memory"), 256);
        file(at("sandboxes/sb1/overlay.qcow2"), 64);
        fs::hard_link(memory, at("sandboxes/sb1/frozen-memory")).unwrap();
        let found = uses(data_dir.path()).unwrap();
        let kilobytes = |name: &str| {
            let (kind, id) = name.split_once(' ').unwrap();
            let wanted = |found: &&DiskUse| (found.kind.as_str(), found.id.as_str()) == (kind, id);
            found.iter().find(wanted).unwrap_or_else(|| panic!("{name}: {found:?}")).bytes >> 10
        };
        assert!((512..540).contains(&kilobytes("template minimal/b1")));
        assert!(kilobytes("template other/b2") < 16);
        assert!((256..280).contains(&kilobytes("bake one")));
        assert!((64..90).contains(&kilobytes("sandbox sb1")), "what it shares is not its own");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn an_empty_directory_has_room_and_no_things() {
        let data_dir = tempfile::tempdir().unwrap();
        assert_eq!(uses(data_dir.path()).unwrap(), []);
        let room = room(data_dir.path()).unwrap();
        assert!(room.free > 0 && room.free <= room.total);
    }
}
