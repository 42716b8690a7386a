//! What is written in a sandbox's directory of what it is and as what it runs, so that a host agent that starts finds it
//! again. Written before its virtual machine exists, and again when what it says has changed. What a host agent takes from
//! it is in [`super::sweep`].

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Generation, NetworkPolicy};
use serde::{Deserialize, Serialize};

use vmm::Platform;

use super::parts::MemoryOwner;
use super::{SandboxSpec, Start};
use crate::files::write_durably;
use crate::guest::AccessToken;
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
    /// As what it runs, or last ran; none of what is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Whether somebody has stopped it since then.
    #[serde(default)]
    pub is_stopped: bool,
}

/// What the next host agent has to know of a virtual machine that runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// In which boot of the machine.
    pub machine_boot: String,
    /// On what.
    pub platform: Platform,
    /// Whose the file is that its memory is mapped from.
    pub memory: MemoryOwner,
    /// How it came to be.
    pub start: Start,
    /// What its monitor took from its start to its first answer.
    pub first_answer: Duration,
    /// What its guest asks of those who call it.
    pub access_token: AccessToken,
}

/// The file that is there while a sandbox's guest may stand still, or may not know who it is. Means nothing after another
/// boot of the machine, so it need not be durable.
const UNSETTLED: &str = "unsettled";

/// To be called before the guest of a sandbox that counts as running is frozen, or goes on with another access token.
pub(super) fn unsettle(directory: &Path) -> io::Result<()> {
    fs::File::create(directory.join(UNSETTLED)).map(drop)
}

/// The guest goes on and knows who it is, or there is none. Where this fails the next host agent tells it again.
pub(super) fn settle(directory: &Path) {
    let _ = fs::remove_file(directory.join(UNSETTLED));
}

pub(super) fn is_settled(directory: &Path) -> bool {
    !directory.join(UNSETTLED).exists()
}

/// The file that holds the latest generation of the sandbox's record at the control plane that was carried out here. A
/// machine that goes down may forget it: then nothing of that time is under way any more.
pub(super) const GENERATION: &str = "generation";

/// Writes it down. What is there is replaced whole.
pub(super) fn note_generation(directory: &Path, generation: Generation) -> io::Result<()> {
    let staged = directory.join("generation.new");
    fs::write(&staged, generation.to_string())?;
    fs::rename(staged, directory.join(GENERATION))
}

/// What was written down last.
pub(super) fn noted_generation(directory: &Path) -> Generation {
    let text = fs::read_to_string(directory.join(GENERATION)).unwrap_or_default();
    text.parse().map_or(Generation::UNSAID, Generation::new)
}

/// The copies of the monitor that sandboxes in `directory` run on.
pub(crate) fn platforms_in(directory: &Path) -> Vec<Platform> {
    records_in(directory).filter_map(|record| Some(record.run?.platform)).collect()
}

/// The builds under the disks of all sandboxes in `directory`, running or paused.
pub(crate) fn builds_in(directory: &Path) -> HashSet<BuildId> {
    records_in(directory).map(|record| record.build).collect()
}

fn records_in(directory: &Path) -> impl Iterator<Item = Record> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Record::read(&entry.path()).ok())
}

impl Record {
    /// Of a sandbox whose disk is its template's.
    pub fn new(spec: SandboxSpec, created_at: SystemTime, build: BuildId) -> Self {
        let since = created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let created_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self {
            format: FORMAT,
            spec,
            created_ms,
            build,
            layers: Vec::new(),
            policy_changes: 0,
            run: None,
            is_stopped: false,
        }
    }

    /// The same of a sandbox that runs, as `run` says.
    pub fn running(self, run: Option<Run>) -> Self {
        Self { run, is_stopped: false, ..self }
    }

    /// The same of a sandbox of which only the disk is kept.
    pub fn stopped(self) -> Self {
        Self { is_stopped: true, ..self }
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

    pub(in crate::sandbox) fn run(machine_boot: &str, memory: MemoryOwner) -> Run {
        Run {
            machine_boot: machine_boot.to_owned(),
            platform: crate::snapshot::manifest_tests::origin().platform,
            memory,
            start: Start::Restore,
            first_answer: Duration::from_millis(20),
            access_token: serde_json::from_str("\"secret\"").unwrap(),
        }
    }

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
            env: [("A".to_owned(), "b".to_owned())].into(),
        };
        let layers = vec![Layer { name: "layer0.qcow2".to_owned(), digest: Digest::of(b"x") }];
        Record { layers, ..Record::new(spec, SystemTime::now(), "0123456789abcdef".parse().unwrap()) }
    }

    #[test]
    fn the_access_token_is_readable_by_nobody_else_and_never_shown() {
        let sandboxes = tempfile::tempdir().unwrap();
        let directory = sandboxes.path().join("sb1");
        fs::create_dir(&directory).unwrap();
        let record = Record { run: Some(run("a boot", MemoryOwner::Shared)), ..record("sb1") };
        record.write(&directory).unwrap();
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(directory.join(RECORD)).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{record:?}").contains("secret"));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_only_in_its_own_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (directory.path().join("sb1"), directory.path().join("sb2"));
        fs::create_dir(&own).unwrap();
        let run = Some(run("a boot", MemoryOwner::Shared));
        Record { run: run.clone(), ..record("sb1") }.write(&own).unwrap();
        let read = Record::read(&own).unwrap();
        assert_eq!((read.spec, read.layers, read.run), (record("sb1").spec, record("sb1").layers, run));
        fs::rename(&own, &other).unwrap();
        assert!(Record::read(&other).unwrap_err().to_string().contains("sb1"));
        let newer = Record { format: 2, ..record("sb2") };
        newer.write(&other).unwrap();
        assert!(Record::read(&other).unwrap_err().to_string().contains("format 2"));
    }
}
