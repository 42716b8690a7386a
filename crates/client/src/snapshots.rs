//! Calls about snapshots, forks and the host's disk: one method a route.

use reqwest::Method;
use serde_json::json;

use crate::client::{Client, LIFECYCLE_LIMIT, QUERY_LIMIT};
use crate::{DiskUsage, Error, Pruned, Sandbox, SandboxId, Snapshot};

impl Client {
    /// Captures a sandbox, which goes on as it was. Without a name the snapshot is called by its id.
    pub async fn snapshot(&self, id: &SandboxId, name: Option<&str>) -> Result<Snapshot, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "snapshots"]);
        let request = request.json(&json!({"name": name}));
        self.call("taking a snapshot").json(request, LIFECYCLE_LIMIT).await
    }

    /// The snapshots, the newest first; without the templates that came with the server.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, Error> {
        let mut url = self.endpoint(&["v1", "snapshots"]);
        url.query_pairs_mut().append_pair("type", "snapshot");
        self.call("listing snapshots").json(self.request_to(Method::GET, url), QUERY_LIMIT).await
    }

    /// Deletes a snapshot by its name or id.
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &["v1", "snapshots", name]);
        self.call("deleting a snapshot").send(request, Some(LIFECYCLE_LIMIT)).await?;
        Ok(())
    }

    /// Makes that many sandboxes that go on from where one is, and returns when all of them run.
    pub async fn fork(&self, id: &SandboxId, count: u32) -> Result<Vec<Sandbox>, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "fork"]);
        self.call("forking a sandbox").json(request.json(&json!({"count": count})), LIFECYCLE_LIMIT).await
    }

    /// What the host's disk holds.
    pub async fn disk_usage(&self) -> Result<DiskUsage, Error> {
        let request = self.request(Method::GET, &["v1", "disk"]);
        self.call("asking what takes disk space").json(request, LIFECYCLE_LIMIT).await
    }

    /// Removes what need not be there, or tells what that would be.
    pub async fn prune(&self, dry_run: bool) -> Result<Pruned, Error> {
        let request = self.request(Method::POST, &["v1", "prune"]).json(&json!({"dry_run": dry_run}));
        self.call("pruning").json(request, LIFECYCLE_LIMIT).await
    }
}
