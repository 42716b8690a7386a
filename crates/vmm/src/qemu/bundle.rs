//! A private copy of QEMU with its libraries and firmware, named by its content.
//!
//! It is the whole file system of a jailed QEMU, so nothing else of the host is in it; and an upgrade of the machine's
//! package changes nothing for virtual machines and snapshots that were made with this copy.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Accelerator;

/// Where the kernel appears in the jail.
pub(super) const KERNEL: &str = "/boot/vmlinuz";
/// Where the initramfs appears in the jail.
pub(super) const INITRAMFS: &str = "/boot/initramfs";
/// Where the guest's memory appears in the jail.
pub(super) const MEMORY: &str = "/memory";
/// The file beside the copied ones that says what they are.
const DESCRIPTION: &str = "bundle.json";
/// Raised when a copy gets other files than those that are copied.
const LAYOUT: &[u8] = b"layout 2";
/// Where firmware appears in the jail.
pub(super) const FIRMWARE_DIRECTORY: &str = "/usr/share/qemu";
/// What `microvm` loads: its BIOS, and option ROMs.
const FIRMWARE: [&str; 4] = ["bios-microvm.bin", "linuxboot_dma.bin", "kvmvapic.bin", "pvh.bin"];

/// Below this, `memory-backend-file` lacks `rom=off`, and a jailed monitor could write a template's memory file.
pub const MINIMUM_VERSION: QemuVersion = QemuVersion { major: 8, minor: 2, patch: 0 };

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Why QEMU cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It is not on the machine.
    #[error("QEMU is not installed: no {0} in the search path; install it with `make setup`")]
    NotInstalled(String),
    /// It is too old.
    #[error("QEMU {found} is too old, {MINIMUM_VERSION} or newer is needed; install it with `make setup`")]
    TooOld {
        /// The version found.
        found: QemuVersion,
    },
    /// It does not run, or not as expected.
    #[error("{program} {doing} failed: {reason}")]
    Program {
        /// The program's path.
        program: PathBuf,
        /// What it was asked.
        doing: &'static str,
        /// What came back.
        reason: String,
    },
    /// A part of it is missing.
    #[error("QEMU's firmware {0} is missing; reinstall QEMU with `make setup`")]
    NoFirmware(&'static str),
    /// There is no such copy.
    #[error("the QEMU that it was saved with (copy {0}) is not kept here")]
    NoCopy(String),
    /// A file could not be read or copied.
    #[error("copy QEMU: {path}")]
    Copy {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// QEMU, copied.
#[derive(Debug)]
pub struct Bundle {
    root: PathBuf,
    description: Description,
}

/// What a copy says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    program: PathBuf,
    version: QemuVersion,
}

impl Bundle {
    /// Finds QEMU (`binary`, or the best one in the search path for this accelerator) and copies it, unless the same
    /// copy is there already.
    pub fn open(data_dir: &Path, binary: Option<&Path>, accelerator: Accelerator) -> Result<Self, BundleError> {
        let program = match binary {
            Some(path) if path.is_file() => path.to_owned(),
            Some(path) => return Err(BundleError::NotInstalled(path.display().to_string())),
            None => find(accelerator)?,
        };
        let version = version_of(&program)?;
        if version < MINIMUM_VERSION {
            return Err(BundleError::TooOld { found: version });
        }
        let files = files_of(&program)?;
        let description = Description { program, version };
        let root = store(data_dir, &files, &description)?;
        Ok(Self { root, description })
    }

    /// A copy that was made before, by its digest.
    pub fn stored(data_dir: &Path, digest: &str) -> Result<Self, BundleError> {
        let no_copy = || BundleError::NoCopy(digest.chars().take(64).collect());
        let is_digest = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let root = if is_digest { data_dir.join("vmm").join(digest) } else { return Err(no_copy()) };
        let text = fs::read(root.join(DESCRIPTION)).map_err(|_| no_copy())?;
        let description = serde_json::from_slice(&text).map_err(|_| no_copy())?;
        Ok(Self { root, description })
    }

    /// Removes all copies but those of these digests.
    pub fn prune(data_dir: &Path, keep: &HashSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(data_dir.join("vmm"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // What is not named by a digest is being made.
            let is_copy = name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_copy && !keep.contains(&name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Which copy it is.
    pub fn digest(&self) -> String {
        self.root.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The directory that is the whole file system of a jailed QEMU.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program's path inside.
    pub fn program(&self) -> &Path {
        &self.description.program
    }

    /// Its version.
    pub fn version(&self) -> QemuVersion {
        self.description.version
    }
}

/// Debian's smaller `-microvm` build for KVM, which is all that it knows; else the full one.
fn find(accelerator: Accelerator) -> Result<PathBuf, BundleError> {
    let full = "qemu-system-x86_64";
    let wanted: &[&str] = match accelerator {
        Accelerator::Kvm => &["qemu-system-x86_64-microvm", full],
        Accelerator::Tcg => &[full],
    };
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    wanted
        .iter()
        .flat_map(|name| std::env::split_paths(&search_path).map(move |directory| directory.join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| BundleError::NotInstalled(full.to_owned()))
}

fn ask(program: &Path, arguments: &[&str], doing: &'static str) -> Result<String, BundleError> {
    let failed = |reason| BundleError::Program { program: program.to_owned(), doing, reason };
    let output = Command::new(program).args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn version_of(program: &Path) -> Result<QemuVersion, BundleError> {
    let doing = "telling its version";
    let text = ask(program, &["--version"], doing)?;
    QemuVersion::parse(&text).ok_or_else(|| BundleError::Program { program: program.to_owned(), doing, reason: text })
}

/// Everything that QEMU needs: path inside the jail → path on the host.
fn files_of(program: &Path) -> Result<BTreeMap<PathBuf, PathBuf>, BundleError> {
    let mut files = BTreeMap::from([(program.to_owned(), program.to_owned())]);
    // Prints `name => /path (address)` for libraries and `/path (address)` for the loader.
    let libraries = Command::new("ldd").arg(program).output();
    let libraries = libraries.map_err(|source| BundleError::Copy { path: "ldd".into(), source })?;
    for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        files.insert(word.into(), word.into());
    }
    let directories = ask(program, &["-L", "help"], "listing firmware directories")?;
    for name in FIRMWARE {
        let file = directories.lines().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
        let file = file.ok_or(BundleError::NoFirmware(name))?;
        files.insert(Path::new(FIRMWARE_DIRECTORY).join(name), file);
    }
    Ok(files)
}

/// Copies the files to `data_dir/vmm/<digest>/`, complete or not at all.
fn store(
    data_dir: &Path,
    files: &BTreeMap<PathBuf, PathBuf>,
    description: &Description,
) -> Result<PathBuf, BundleError> {
    let digest = digest_of(files)?;
    let parent = data_dir.join("vmm");
    let root = parent.join(digest);
    if root.is_dir() {
        return Ok(root);
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Copy { path, source }
    };
    fs::create_dir_all(&parent).map_err(failed(&parent))?;
    // The name does not begin with a dot or end in a digest, so that a leftover of a crash is told from a copy.
    let staging = parent.join(format!("staging-{}", std::process::id()));
    let _ = fs::remove_dir_all(&staging);
    for (inside, host) in files {
        copy(host, &join(&staging, inside)).map_err(failed(host))?;
    }
    for mount_point in [KERNEL, INITRAMFS, MEMORY] {
        let path = join(&staging, Path::new(mount_point));
        create_parent(&path).and_then(|()| fs::write(&path, b"")).map_err(failed(&path))?;
    }
    let path = staging.join(DESCRIPTION);
    let text = serde_json::to_vec(description).expect("a description is plain data");
    fs::write(&path, text).map_err(failed(&path))?;
    let devices = staging.join("dev");
    fs::create_dir_all(&devices).map_err(failed(&devices))?;
    rustix::fs::sync();
    match fs::rename(&staging, &root) {
        // Another server on the same data directory's parent may have been quicker: the content is the same.
        Err(_) if root.is_dir() => fs::remove_dir_all(&staging).map_err(failed(&staging))?,
        result => result.map_err(failed(&root))?,
    }
    Ok(root)
}

fn join(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Everyone may read the copy: the jailed monitor is nobody's user.
fn copy(host: &Path, to: &Path) -> io::Result<()> {
    create_parent(to)?;
    fs::copy(host, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o555))
}

fn digest_of(files: &BTreeMap<PathBuf, PathBuf>) -> Result<String, BundleError> {
    let mut digest = Sha256::new();
    digest.update(LAYOUT);
    let mut buffer = vec![0; 1 << 20];
    for (inside, host) in files {
        digest.update(inside.as_os_str().as_encoded_bytes());
        digest.update([0]);
        let mut read = || -> io::Result<()> {
            let mut file = fs::File::open(host)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => digest.update(&buffer[..count]),
                }
            }
        };
        read().map_err(|source| BundleError::Copy { path: host.clone(), source })?;
    }
    Ok(digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

impl QemuVersion {
    /// From QEMU's answer to `--version`.
    pub fn parse(text: &str) -> Option<Self> {
        let version = text.split_once("version ")?.1.split_whitespace().next()?;
        let mut numbers = version.split('.').map(|part| part.parse().ok());
        Some(Self { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next().flatten().unwrap_or(0) })
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(QemuVersion::parse(text).map(|version| version.to_string()).as_deref(), expect, "{text}");
        };
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", Some("10.0.2"));
        check("QEMU emulator version 7.2.17", Some("7.2.17"));
        check("QEMU emulator version 9.1", Some("9.1.0"));
        check("something else", None);
        assert!(QemuVersion::parse("version 7.2.17").unwrap() < MINIMUM_VERSION);
        assert!(QemuVersion::parse("version 10.0.2").unwrap() > MINIMUM_VERSION);
    }

    #[test]
    fn a_copy_is_complete_and_made_once() {
        let data = tempfile::tempdir().unwrap();
        let first = Bundle::open(data.path(), None, Accelerator::Tcg).unwrap();
        let inside = |path: &str| join(first.root(), Path::new(path));
        assert!(join(first.root(), first.program()).is_file());
        assert!(inside(KERNEL).is_file() && inside("/usr/share/qemu/bios-microvm.bin").is_file());
        let made = fs::metadata(first.root()).unwrap().modified().unwrap();
        let second = Bundle::open(data.path(), None, Accelerator::Tcg).unwrap();
        assert_eq!(second.root(), first.root());
        assert_eq!(fs::metadata(second.root()).unwrap().modified().unwrap(), made);
        assert_eq!(fs::read_dir(data.path().join("vmm")).unwrap().count(), 1, "no staging is left");
        let stored = Bundle::stored(data.path(), &first.digest()).unwrap();
        assert_eq!((stored.program(), stored.version()), (first.program(), first.version()));
        assert!(matches!(Bundle::stored(data.path(), "../vmm"), Err(BundleError::NoCopy(_))));
        assert!(matches!(Bundle::stored(data.path(), "abcdef"), Err(BundleError::NoCopy(_))));
    }

    #[test]
    fn only_copies_that_something_needs_are_kept() {
        let data = tempfile::tempdir().unwrap();
        for name in ["ab01", "cd02", "staging-1"] {
            fs::create_dir_all(data.path().join("vmm").join(name)).unwrap();
        }
        Bundle::prune(data.path(), &HashSet::from(["cd02".to_owned()])).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(data.path().join("vmm")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["cd02", "staging-1"]);
    }

    #[test]
    fn a_machine_without_qemu_is_told_what_to_do() {
        let data = tempfile::tempdir().unwrap();
        let error = Bundle::open(data.path(), Some(Path::new("/no/qemu")), Accelerator::Tcg).unwrap_err();
        assert!(error.to_string().contains("make setup"), "{error}");
        assert!(fs::read_dir(data.path()).unwrap().next().is_none());
    }
}
