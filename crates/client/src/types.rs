//! What the API's objects look like to a caller. Members that this version does not know are kept where they are
//! printed again, and ignored elsewhere.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::SandboxId;

/// A wish for a sandbox. What is absent is the server's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CreateSandbox {
    /// Name of the template; empty is the server's default, or the snapshot's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub template: String,
    /// Virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// MiB of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// MiB of disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    /// Name or id of a snapshot that it goes on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// Seconds without activity until its time is over; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u32>,
    /// What becomes of it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// Whether a call that needs its guest resumes it first while it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Names and values of the caller's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// How it comes to be; absent is the quickest way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// How a sandbox comes to be. It runs the same whichever way it came: this is for measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The quickest way there is.
    Auto,
    /// The template's kernel is booted.
    Boot,
    /// Restored from the image of a booted one, never out of the warm pool.
    Restore,
}

/// What becomes of a sandbox that nobody uses for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It is deleted.
    Destroy,
    /// It is paused.
    Pause,
    /// Its disk alone is kept.
    Stop,
}

/// Which sandboxes to list; the default is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// In one of these states; in any, where there is none.
    pub statuses: Vec<String>,
    /// With all of these in their metadata.
    pub metadata: BTreeMap<String, String>,
}

/// A sandbox as the server describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// `running`, `paused`, `stopped`…; a newer server may have others.
    pub status: String,
    /// The template that it was made from.
    pub template: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// MiB of memory.
    pub memory_mb: u32,
    /// Seconds without activity after which it ends; 0 is never.
    pub timeout_sec: u32,
    /// How its host reaches it, while it has a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// Everything else that the server says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Sandbox {
    /// Whether there may be something of it on a host.
    pub fn is_live(&self) -> bool {
        !matches!(self.status.as_str(), "stopped" | "error")
    }
}

/// A snapshot as the server describes it, or a template that came with the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name or, where it has none, its id.
    pub name: String,
    /// `snapshot`, or `base` for a template.
    pub r#type: String,
    /// `pending`, `ready`, `deleting`; absent for a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What was captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_id: Option<String>,
    /// What that was made from in the first place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// MiB of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// What its files take on the host's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Everything else that the server says.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What the host's disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Of the file system that the host's data is on.
    pub total_bytes: u64,
    /// Of these, nobody has.
    pub free_bytes: u64,
    /// Never used for sandboxes.
    pub reserve_bytes: u64,
    /// What takes something of it.
    pub uses: Vec<DiskUse>,
}

/// Something that takes disk space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUse {
    /// `sandbox`, `snapshot`, `template`…
    pub kind: String,
    /// Which one, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it takes.
    pub bytes: u64,
    /// Whether pruning would remove it.
    pub prunable: bool,
}

/// What pruning removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Whether it only would.
    pub dry_run: bool,
    /// What.
    pub removed: Vec<Removed>,
}

/// Something that need not be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// `sandbox`, `snapshot`, `bake`…
    pub kind: String,
    /// Which one.
    pub id: String,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it took, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A command whose output is collected. No shell is involved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ExecRequest {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Seconds until it is killed; absent is the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u32>,
    /// Variables beside the template's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; absent is the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// User in the sandbox; absent is the template's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exact bytes.
    pub stdout: Vec<u8>,
    /// Exact bytes.
    pub stderr: Vec<u8>,
    /// 127 when there is no such program.
    pub exit_code: i32,
    /// As the server measured it.
    pub duration: Duration,
}

/// What `GET /health` says of the server. Empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Of the server.
    pub version: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Of the virtual machine monitor.
    pub vmm_version: String,
}

/// Processes started in a row inside a guest, timed there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SpawnBenchmark {
    /// How many were started.
    pub count: u32,
    /// Microseconds for one, from fork to its end.
    pub median_us: u64,
    /// The quickest.
    pub min_us: u64,
}

/// What a running sandbox costs its host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Footprint {
    /// Memory of its monitor; a page that several map counts in parts.
    pub pss_bytes: u64,
    /// Processor time of its monitor.
    pub cpu_us: u64,
    /// What its monitor took from its start to its first answer.
    pub monitor_start_us: u64,
    /// How it came to be: `boot`, `restore`, `pool` or `resume`.
    pub start: String,
    /// What was waited for its jail meanwhile, at most.
    pub jail_us: u64,
    /// What was waited for its network: namespace, links and rules.
    pub fence_us: u64,
}

/// The wire form of [`ExecOutput`].
#[derive(Deserialize)]
pub(crate) struct ExecResponse {
    pub stdout: String,
    pub stderr: String,
    pub exit_code: i32,
    pub duration_ms: u64,
    pub encoding: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let wish = CreateSandbox { template: "minimal".into(), ..CreateSandbox::default() };
        assert_eq!(serde_json::to_string(&wish).unwrap(), r#"{"template":"minimal"}"#);
        let wish = CreateSandbox {
            snapshot: Some("base".into()),
            on_timeout: Some(OnTimeout::Pause),
            ..CreateSandbox::default()
        };
        assert_eq!(serde_json::to_string(&wish).unwrap(), r#"{"snapshot":"base","on_timeout":"pause"}"#);
        let exec = ExecRequest { cmd: "true".into(), ..ExecRequest::default() };
        assert_eq!(serde_json::to_string(&exec).unwrap(), r#"{"cmd":"true","args":[]}"#);
    }

    #[test]
    fn a_sandbox_keeps_members_that_this_version_does_not_know() {
        let text = r#"{"id":"sb1","status":"running","template":"minimal","vcpus":1,"memory_mb":512,"timeout_sec":300,
            "created_at":"2026-01-01T00:00:00Z","last_updated":"2026-01-01T00:00:01Z","new":[1]}"#;
        let sandbox: Sandbox = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&sandbox).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(sandbox.is_live() && !Sandbox { status: "stopped".into(), ..sandbox }.is_live());
    }
}
