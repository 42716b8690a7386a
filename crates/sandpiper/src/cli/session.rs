//! What a command makes on a server for itself, so that all of it is removed on every way out.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use client::{Client, CreateSandbox, ExecRequest, ListFilter, Sandbox, SandboxId, Snapshot, Start};
use futures::StreamExt as _;
use futures::stream;

/// Longer than any of them is idle: what a killed command leaves goes by itself.
const TIMEOUT_SEC: u32 = 3600;

/// Removals at once.
const REMOVALS: usize = 8;

/// One command's sandboxes and snapshots on one server.
pub struct Session {
    pub client: Client,
    template: String,
    /// The name in the metadata by which its sandboxes are found again, and a value that no other run has.
    label: (&'static str, String),
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    /// Those that the label does not lead to, such as forks.
    sandboxes: HashSet<SandboxId>,
    snapshots: HashSet<String>,
}

impl Session {
    /// Nothing is made yet.
    pub fn new(client: Client, template: &str, label: &'static str) -> Self {
        let label = (label, model::SandboxId::random().to_string());
        Self { client, template: template.to_owned(), label, made: Mutex::default() }
    }

    /// Makes a sandbox; the time is that until the answer that it runs.
    pub async fn create(&self, start: Start) -> anyhow::Result<(Sandbox, Duration)> {
        let wish = CreateSandbox {
            template: self.template.clone(),
            start: Some(start),
            timeout_sec: Some(TIMEOUT_SEC),
            metadata: self.metadata(),
            ..CreateSandbox::default()
        };
        let begun = Instant::now();
        let sandbox = self.client.create(&wish).await?;
        Ok((sandbox, begun.elapsed()))
    }

    /// Runs a command that must succeed.
    pub async fn exec(&self, sandbox: &SandboxId, cmd: &str, args: &[&str]) -> anyhow::Result<Duration> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let command = ExecRequest { cmd: cmd.to_owned(), args, ..ExecRequest::default() };
        let begun = Instant::now();
        let output = self.client.exec(sandbox, &command).await?;
        let time = begun.elapsed();
        if output.exit_code != 0 {
            bail!("{cmd} ended with {}: {}", output.exit_code, String::from_utf8_lossy(&output.stderr));
        }
        Ok(time)
    }

    /// Captures a sandbox.
    pub async fn snapshot(&self, sandbox: &SandboxId) -> anyhow::Result<(Snapshot, Duration)> {
        let begun = Instant::now();
        let snapshot = self.client.snapshot(sandbox, None).await?;
        let time = begun.elapsed();
        self.made().snapshots.insert(snapshot.name.clone());
        Ok((snapshot, time))
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(&self, name: &str) -> anyhow::Result<()> {
        self.client.delete_snapshot(name).await?;
        self.made().snapshots.remove(name);
        Ok(())
    }

    /// Forks a sandbox; the time is that until all children answer.
    pub async fn fork(&self, sandbox: &SandboxId, count: u32) -> anyhow::Result<(Vec<Sandbox>, Duration)> {
        let begun = Instant::now();
        let children = self.client.fork(sandbox, count).await?;
        let time = begun.elapsed();
        self.made().sandboxes.extend(children.iter().map(|child| child.id.clone()));
        Ok((children, time))
    }

    /// Removes sandboxes.
    pub async fn remove(&self, sandboxes: impl IntoIterator<Item = SandboxId>) -> anyhow::Result<()> {
        let removals = sandboxes.into_iter().map(|id| async move {
            let removed = self.client.delete(&id).await;
            removed.with_context(|| format!("{id} is not removed; try `sandpiper sandbox rm {id}`"))?;
            self.made().sandboxes.remove(&id);
            anyhow::Ok(())
        });
        let results: Vec<_> = stream::iter(removals).buffer_unordered(REMOVALS).collect().await;
        results.into_iter().collect()
    }

    /// Removes everything that is left: also what was being made when the command ended.
    pub async fn remove_everything(&self) -> anyhow::Result<()> {
        let forks: Vec<_> = self.made().sandboxes.iter().cloned().collect();
        self.remove(forks).await?;
        let mine = ListFilter { metadata: self.metadata(), ..ListFilter::default() };
        loop {
            let left = self.client.list_matching(&mine).await?;
            let live: Vec<_> = left.into_iter().filter(Sandbox::is_live).map(|sandbox| sandbox.id).collect();
            if live.is_empty() {
                break;
            }
            self.remove(live).await?;
        }
        let snapshots: Vec<_> = self.made().snapshots.iter().cloned().collect();
        for name in snapshots {
            self.remove_snapshot(&name).await?;
        }
        Ok(())
    }

    /// What its sandboxes are found by.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(self.label.0.to_owned(), self.label.1.clone())])
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
