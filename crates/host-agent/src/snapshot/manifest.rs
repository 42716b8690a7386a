//! What is written beside a captured virtual machine, and the checks before anything is made of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use model::{SandboxId, Shape, TemplateName};
use serde::{Deserialize, Serialize};
use vmm::Platform;

use super::{MEMORY, STATE, SnapshotError, content};
use crate::template::{BuildId, Digest, Template};

/// The manifests that this program writes and reads.
const FORMAT: u32 = 2;

/// The version of what host and guest agent say to each other around a capture.
pub const GUEST_PROTOCOL: u32 = 3;

/// The file's name.
const MANIFEST: &str = "manifest.json";

/// What was captured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Of which template.
    pub template: TemplateName,
    /// Of which build of it: its image is under the overlay.
    pub build: BuildId,
    /// The kernel in its memory.
    pub kernel: Digest,
    /// The guest agent in its memory.
    pub guest_agent: String,
    /// What that agent speaks.
    pub guest_protocol: u32,
    /// vCPUs, memory, disk.
    pub shape: Shape,
    /// On what it ran.
    pub platform: Platform,
}

/// What is known of a captured virtual machine. Members are added, never changed in meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// What.
    pub origin: Origin,
    /// The sandbox that was captured, where it lives on beside this.
    #[serde(default)]
    pub sandbox: Option<SandboxId>,
    /// The frozen overlays under the captured one, the lowest first.
    #[serde(default)]
    pub layers: Vec<String>,
    /// The digests of the files that must never change.
    pub files: BTreeMap<String, Digest>,
    /// The size of its memory's file.
    memory_bytes: u64,
}

impl Origin {
    /// Of a sandbox that runs here.
    pub fn new(template: &Template, shape: Shape, platform: Platform) -> Self {
        Self {
            template: template.manifest.name.clone(),
            build: template.manifest.build.clone(),
            kernel: template.kernel.digest().clone(),
            guest_agent: template.guest_agent(),
            guest_protocol: GUEST_PROTOCOL,
            shape,
            platform,
        }
    }

    /// Whether what was captured can go on as `wanted`, which has the platform of this host. The guest agent may be
    /// another as long as this host speaks its language, and the monitor is the one that it was captured with.
    fn check(&self, wanted: &Self) -> Result<(), SnapshotError> {
        same("template", &self.template, &wanted.template)?;
        same("template build", &self.build, &wanted.build)?;
        same("kernel", &self.kernel.as_str(), &wanted.kernel.as_str())?;
        same("guest agent protocol", &self.guest_protocol, &wanted.guest_protocol)?;
        same("shape", &format!("{:?}", self.shape), &format!("{:?}", wanted.shape))?;
        Ok(self.platform.check(&wanted.platform)?)
    }

    /// Whether a disk that was captured can be that of `wanted`, which boots from it: nothing of a kernel, a guest agent or
    /// a monitor is in it.
    pub(super) fn check_disk(&self, wanted: &Self) -> Result<(), SnapshotError> {
        same("template", &self.template, &wanted.template)?;
        same("template build", &self.build, &wanted.build)?;
        same("shape", &format!("{:?}", self.shape), &format!("{:?}", wanted.shape))
    }
}

fn same<T: PartialEq + ToString>(what: &'static str, captured: &T, wanted: &T) -> Result<(), SnapshotError> {
    if captured == wanted {
        return Ok(());
    }
    Err(SnapshotError::Differs { what, captured: captured.to_string(), wanted: wanted.to_string() })
}

impl Manifest {
    /// Of a capture of `origin` made now, with nothing in it yet.
    pub fn new(origin: Origin) -> Self {
        let memory_bytes = u64::from(origin.shape.memory.get()) << 20;
        let created_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let (sandbox, layers, files) = (None, Vec::new(), BTreeMap::new());
        Self { format: FORMAT, created_ms, origin, sandbox, layers, files, memory_bytes }
    }

    /// Takes down what is now in these files of `directory`.
    pub fn digest(&mut self, directory: &Path, names: &[&str]) -> Result<(), SnapshotError> {
        for name in names {
            self.files.insert((*name).to_owned(), digest_of(&directory.join(name))?);
        }
        Ok(())
    }

    /// Writes it, durably.
    pub fn write(&self, directory: &Path) -> Result<(), SnapshotError> {
        let path = directory.join(MANIFEST);
        let text = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        crate::files::write_durably(&path, &text).map_err(SnapshotError::at("write", &path))
    }

    /// Reads the manifest in `directory`, and nothing else.
    pub fn read(directory: &Path) -> Result<Self, SnapshotError> {
        let path = directory.join(MANIFEST);
        let text = fs::read(&path).map_err(SnapshotError::at("read", &path))?;
        let garbled = |error: serde_json::Error| SnapshotError::at("read", &path)(error.into());
        let Format { format } = serde_json::from_slice(&text).map_err(garbled)?;
        if format != FORMAT {
            return Err(SnapshotError::Format(format));
        }
        serde_json::from_slice(&text).map_err(garbled)
    }

    /// Reads the manifest in `directory` and checks that what it describes is there, whole, and can go on as `wanted`.
    /// `memory` is where its memory is. Of the larger files only that they are there: they are read by
    /// [`verify`](Self::verify).
    pub fn open(directory: &Path, memory: &Path, wanted: &Origin) -> Result<Self, SnapshotError> {
        let manifest = Self::read(directory)?;
        manifest.origin.check(wanted)?;
        manifest.verify_file(directory, STATE)?;
        let size = fs::metadata(memory).map_err(SnapshotError::at("measure", memory))?.len();
        if size != manifest.memory_bytes {
            return Err(SnapshotError::Damaged { file: MEMORY.to_owned() });
        }
        Ok(manifest)
    }

    /// Reads every file that must never change and compares it with what was taken down. Takes as long as that.
    pub fn verify(&self, directory: &Path) -> Result<(), SnapshotError> {
        self.files.keys().try_for_each(|name| self.verify_file(directory, name))
    }

    fn verify_file(&self, directory: &Path, name: &str) -> Result<(), SnapshotError> {
        let found = digest_of(&directory.join(name))?;
        if self.files.get(name) == Some(&found) {
            Ok(())
        } else {
            Err(SnapshotError::Damaged { file: name.to_owned() })
        }
    }

    /// Notes that it was used now.
    pub(super) fn touch(directory: &Path) -> io::Result<()> {
        File::options().append(true).open(directory.join(MANIFEST))?.set_modified(std::time::SystemTime::now())
    }

    /// When it was last used.
    pub(super) fn last_used(directory: &Path) -> io::Result<std::time::SystemTime> {
        fs::metadata(directory.join(MANIFEST))?.modified()
    }
}

/// What every manifest says, whatever its format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Reads a file and compares it with what it should be.
pub(super) fn verify(directory: &Path, name: &str, expected: Option<&Digest>) -> Result<(), SnapshotError> {
    let found = digest_of(&directory.join(name))?;
    if expected == Some(&found) { Ok(()) } else { Err(SnapshotError::Damaged { file: name.to_owned() }) }
}

fn digest_of(path: &Path) -> Result<Digest, SnapshotError> {
    File::open(path).and_then(|file| content::digest(&file)).map_err(SnapshotError::at("read", path))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn origin() -> Origin {
        let platform = Platform {
            vmm: "QEMU 10.0.2".into(),
            bundle: "ab".into(),
            machine: "microvm".into(),
            cpu: "max".into(),
            accelerator: "tcg".into(),
            host_cpu: String::new(),
            tsc_khz: 2_000_000,
        };
        Origin {
            template: "minimal".parse().unwrap(),
            build: "0123456789abcdef".parse().unwrap(),
            kernel: Digest::of(b"kernel"),
            guest_agent: "agent".into(),
            guest_protocol: GUEST_PROTOCOL,
            shape: Shape::default(),
            platform,
        }
    }

    fn captured() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(STATE), b"devices").unwrap();
        File::create(directory.path().join("memory")).unwrap().set_len(512 << 20).unwrap();
        let mut manifest = Manifest::new(origin());
        manifest.digest(directory.path(), &[STATE]).unwrap();
        manifest.write(directory.path()).unwrap();
        directory
    }

    #[test]
    fn what_was_captured_is_opened_by_whoever_wants_the_same() {
        let directory = captured();
        let open = |wanted: &Origin| Manifest::open(directory.path(), &directory.path().join("memory"), wanted);
        assert_eq!(open(&origin()).unwrap().origin, origin());
        let newer_monitor = Platform { bundle: "cd".into(), vmm: "QEMU 11".into(), ..origin().platform };
        open(&Origin { platform: newer_monitor, guest_agent: "newer".into(), ..origin() }).unwrap();
    }

    #[test]
    fn a_mismatch_is_refused_with_both_values() {
        let directory = captured();
        let check = |change: fn(&mut Origin), word: &str| {
            let mut wanted = origin();
            change(&mut wanted);
            let error = Manifest::open(directory.path(), &directory.path().join("memory"), &wanted).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        };
        check(|wanted| wanted.build = "fedcba9876543210".parse().unwrap(), "template build 0123456789abcdef");
        check(|wanted| wanted.kernel = Digest::of(b"other"), "kernel");
        check(|wanted| wanted.guest_protocol += 1, "guest agent protocol 3");
        check(|wanted| wanted.shape.vcpus = 2.try_into().unwrap(), "shape");
        check(|wanted| wanted.platform.accelerator = "kvm".into(), "accelerator");
        check(|wanted| wanted.platform.tsc_khz *= 2, "time stamp counter");
    }

    #[test]
    fn damage_is_found_before_anything_is_made_of_it() {
        let open = |directory: &tempfile::TempDir| {
            Manifest::open(directory.path(), &directory.path().join("memory"), &origin()).unwrap_err().to_string()
        };
        let directory = captured();
        fs::write(directory.path().join(STATE), b"Devices").unwrap();
        assert!(open(&directory).contains("state is damaged"));
        let directory = captured();
        File::create(directory.path().join("memory")).unwrap();
        assert!(open(&directory).contains("memory is damaged"));
        let directory = captured();
        let text = fs::read_to_string(directory.path().join(MANIFEST)).unwrap();
        fs::write(directory.path().join(MANIFEST), text.replace("\"format\": 2", "\"format\": 3")).unwrap();
        assert!(open(&directory).contains("format 3"));
        fs::write(directory.path().join(MANIFEST), "{").unwrap();
        assert!(open(&directory).starts_with("read "));
    }

    #[test]
    fn one_changed_byte_of_a_large_file_is_found_when_all_is_read() {
        use std::os::unix::fs::FileExt;
        let directory = captured();
        let memory = File::options().write(true).open(directory.path().join(MEMORY)).unwrap();
        memory.write_all_at(b"guest", 400 << 20).unwrap();
        let mut manifest = Manifest::new(origin());
        manifest.digest(directory.path(), &[STATE, MEMORY]).unwrap();
        manifest.verify(directory.path()).unwrap();
        memory.write_all_at(b"Guest", 400 << 20).unwrap();
        let error = manifest.verify(directory.path()).unwrap_err();
        assert!(error.to_string().contains("memory is damaged"), "{error}");
    }
}
