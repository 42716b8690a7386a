//! End-to-end tests: the real binary, real virtual machines, the real REST API. Nothing stands in for anything, and
//! every test takes the accelerator that the machine has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod admission;
mod adopt;
mod bench;
mod browser;
mod building;
mod chaos;
mod clock;
mod command_line;
mod database;
mod disk;
mod disk_limits;
mod docs_page;
mod e2b;
mod exec;
mod fence;
mod forks;
mod guest;
mod host;
mod integrity;
mod jail;
mod lifecycle;
mod metrics;
mod network;
mod pool;
mod ports;
mod refusals;
mod restart;
mod rpc;
mod schemathesis;
mod secrets;
mod security;
mod service;
mod sessions;
mod site;
mod snapshot;
mod snapshots;
mod tls;
mod wrenn;
mod wrenn_user;

use std::ffi::OsString;
use std::path::Path;

use testkit::{Server, ServerOptions};

/// The binary under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sandpiper"))
}

/// A server with these flags beyond the usual ones.
async fn server(arguments: &[&str]) -> Server {
    let arguments = arguments.iter().map(OsString::from).collect();
    Server::start(binary(), ServerOptions { arguments, ..ServerOptions::default() }).await
}

/// What `make integrity` sets in the environment, and what holds elsewhere.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("it is a number"))
}
