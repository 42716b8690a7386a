//! What is written in a sandbox's directory of what it is, so that a host agent that starts finds it again. Written
//! before its virtual machine exists, and again when what it says has changed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::NetworkPolicy;
use serde::{Deserialize, Serialize};

use super::SandboxSpec;
use crate::files::write_durably;
use crate::snapshot::Layer;
use crate::template::BuildId;

/// The file's name. A directory without it is what a deletion has left.
pub(super) const RECORD: &str = "record.json";

/// The records that this program writes and reads.
const FORMAT: u32 = 1;

/// A sandbox, as its directory tells. Members are added, never changed in meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    /// What it is to be.
    pub spec: SandboxSpec,
    /// When it was asked for, in milliseconds since 1970.
    created_ms: u64,
    /// The build of its template that is under all of its disk.
    pub build: BuildId,
    /// The frozen overlays between that and its own, the lowest first; files in its directory.
    pub layers: Vec<Layer>,
    /// How often what it may reach was replaced.
    #[serde(default)]
    pub policy_changes: u64,
}

/// The builds under the disks of all sandboxes in `directory`, running or paused.
pub(crate) fn builds_in(directory: &Path) -> HashSet<BuildId> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Record::read(&entry.path()).ok()).map(|record| record.build).collect()
}

impl Record {
    /// Of a sandbox whose disk is its template's.
    pub fn new(spec: SandboxSpec, created_at: SystemTime, build: BuildId) -> Self {
        let since = created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { format: FORMAT, spec, created_ms, build, layers: Vec::new(), policy_changes: 0 }
    }

    /// The same after what the sandbox may reach was replaced.
    pub fn with_network(&self, network: NetworkPolicy) -> Self {
        let spec = SandboxSpec { network, ..self.spec.clone() };
        Self { spec, policy_changes: self.policy_changes + 1, ..self.clone() }
    }

    /// When it was asked for.
    pub fn created_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.created_ms)
    }

    /// Writes it into a sandbox's directory, durably.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("a record is plain data");
        write_durably(&directory.join(RECORD), &text)
    }

    /// Reads that of the sandbox whose directory this is.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let record: Self = serde_json::from_slice(&fs::read(directory.join(RECORD))?)?;
        let is_of_directory = directory.file_name().is_some_and(|name| name == record.spec.id.as_str());
        match (record.format, is_of_directory) {
            (FORMAT, true) => Ok(record),
            (FORMAT, false) => Err(io::Error::other(format!("it is of sandbox {}", record.spec.id))),
            (format, _) => Err(io::Error::other(format!("it has format {format}, this program reads {FORMAT}"))),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::template::Digest;

    pub(in crate::sandbox) fn record(id: &str) -> Record {
        let spec = SandboxSpec {
            id: id.parse().unwrap(),
            template: "minimal".parse().unwrap(),
            shape: model::Shape::default(),
            lifetime: model::Lifetime::Idle(Duration::from_secs(300)),
            on_expiry: model::OnExpiry::Pause,
            owner: "team-1".parse().unwrap(),
            snapshot: Some("sn1".parse().unwrap()),
            start: model::StartMode::Auto,
            network: serde_json::from_str(r#"{"allow_internet_access":false}"#).unwrap(),
        };
        let layers = vec![Layer { name: "layer0.qcow2".to_owned(), digest: Digest::of(b"x") }];
        Record { layers, ..Record::new(spec, SystemTime::now(), "0123456789abcdef".parse().unwrap()) }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_only_in_its_own_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (directory.path().join("sb1"), directory.path().join("sb2"));
        fs::create_dir(&own).unwrap();
        record("sb1").write(&own).unwrap();
        let read = Record::read(&own).unwrap();
        assert_eq!((read.spec, read.layers), (record("sb1").spec, record("sb1").layers));
        fs::rename(&own, &other).unwrap();
        assert!(Record::read(&other).unwrap_err().to_string().contains("sb1"));
        let newer = Record { format: 2, ..record("sb2") };
        newer.write(&other).unwrap();
        assert!(Record::read(&other).unwrap_err().to_string().contains("format 2"));
    }
}
