//! Typed client of the REST API: sandboxes, snapshots, commands, files.
//!
//! It knows the server's contract and nothing else of Sandpiper: no other crate of ours, no terminal, no retries, no
//! cleaning up after its caller.

mod client;
mod error;
mod exec;
mod exit;
mod files;
mod http;
mod network;
mod sandbox_id;
mod snapshots;
mod types;

pub use client::Client;
pub use error::{ApiError, BadKey, BadUrl, Error};
pub use exec::{ExecEvent, ExecStart, ExecStream};
pub use exit::Exit;
pub use network::{Network, NetworkPolicy};
pub use sandbox_id::{InvalidSandboxId, SandboxId};
pub use types::{
    CreateSandbox, DiskUsage, DiskUse, ExecOutput, ExecRequest, Footprint, Health, ListFilter, OnTimeout, Pruned,
    Removed, Sandbox, Snapshot, SpawnBenchmark, Start,
};
