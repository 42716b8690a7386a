//! What is written beside a captured virtual machine, and the checks before anything is made of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use model::{Shape, TemplateName};
use serde::{Deserialize, Serialize};
use vmm::Platform;

use super::{STATE, SnapshotError};
use crate::template::{BuildId, Digest, Template};

/// The manifests that this program writes and reads.
const FORMAT: u32 = 1;

/// The version of what host and guest agent say to each other around a capture.
pub const GUEST_PROTOCOL: u32 = 2;

/// The file's name.
const MANIFEST: &str = "manifest.json";

/// A state is some kilobytes; anything much larger is none.
const LARGEST_STATE: u64 = 64 << 20;

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
    /// The digest of the state of its devices.
    state: Digest,
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
        let differs = |what, captured: String, wanted: String| match captured == wanted {
            true => Ok(()),
            false => Err(SnapshotError::Differs { what, captured, wanted }),
        };
        differs("template", self.template.to_string(), wanted.template.to_string())?;
        differs("template build", self.build.to_string(), wanted.build.to_string())?;
        differs("kernel", self.kernel.as_str().to_owned(), wanted.kernel.as_str().to_owned())?;
        differs("guest agent protocol", self.guest_protocol.to_string(), wanted.guest_protocol.to_string())?;
        differs("shape", format!("{:?}", self.shape), format!("{:?}", wanted.shape))?;
        Ok(self.platform.check(&wanted.platform)?)
    }
}

impl Manifest {
    /// Writes the manifest of a capture whose state is in `directory`, durably.
    pub fn write(directory: &Path, origin: Origin) -> Result<Self, SnapshotError> {
        let state = digest_of(&directory.join(STATE))?;
        let memory_bytes = u64::from(origin.shape.memory.get()) << 20;
        let created_ms = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let manifest = Self { format: FORMAT, created_ms, origin, state, memory_bytes };
        let path = directory.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        crate::files::write_durably(&path, &text).map_err(SnapshotError::at("write", &path))?;
        Ok(manifest)
    }

    /// Reads the manifest in `directory` and checks that what it describes is there, whole, and can go on as `wanted`.
    /// `memory` is where its memory is.
    pub fn open(directory: &Path, memory: &Path, wanted: &Origin) -> Result<Self, SnapshotError> {
        let path = directory.join(MANIFEST);
        let text = fs::read(&path).map_err(SnapshotError::at("read", &path))?;
        let garbled = |error: serde_json::Error| SnapshotError::at("read", &path)(error.into());
        let manifest: Self = serde_json::from_slice(&text).map_err(garbled)?;
        if manifest.format != FORMAT {
            return Err(SnapshotError::Format(manifest.format));
        }
        manifest.origin.check(wanted)?;
        if digest_of(&directory.join(STATE))? != manifest.state {
            return Err(SnapshotError::Damaged { file: STATE });
        }
        let size = fs::metadata(memory).map_err(SnapshotError::at("measure", memory))?.len();
        if size != manifest.memory_bytes {
            return Err(SnapshotError::Damaged { file: super::MEMORY });
        }
        Ok(manifest)
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

fn digest_of(path: &Path) -> Result<Digest, SnapshotError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_STATE).read_to_end(&mut bytes));
    read.map_err(SnapshotError::at("read", path))?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::snapshot) fn origin() -> Origin {
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
        Manifest::write(directory.path(), origin()).unwrap();
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
        check(|wanted| wanted.guest_protocol += 1, "guest agent protocol 2");
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
        fs::write(directory.path().join(MANIFEST), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(open(&directory).contains("format 2"));
        fs::write(directory.path().join(MANIFEST), "{").unwrap();
        assert!(open(&directory).starts_with("read "));
    }
}
