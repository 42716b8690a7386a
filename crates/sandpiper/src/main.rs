//! The `sandpiper` binary: server roles and the command line, each a subcommand.
//!
//! This file only puts them in order. `cli` is the grammar and the client commands, `serve` the roles that stay,
//! `templates` what both build, `certificate` what both issue, `config` where settings come from, `console` what all of them tell people with. Each
//! uses only those after it.

mod certificate;
mod cli;
mod config;
mod console;
mod serve;
mod templates;

use std::process::ExitCode;

use config::Parsed;

/// The guest agent that this binary boots its sandboxes with.
pub const GUEST_AGENT: &[u8] = include_bytes!(env!("SANDPIPER_GUEST_AGENT"));

fn main() -> ExitCode {
    // Before anything else: the jail's helper must stay a process with one thread.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == host_agent::jail::HELPER_ARGUMENT) {
        return host_agent::jail::inside::enter();
    }
    // There is only one provider in the binary; it is named so that it stays so.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli: cli::Cli = match config::parse() {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Shown) => return ExitCode::SUCCESS,
        Err(error) => return console::report(&error),
    };
    cli.start_tracing();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return console::report(&error.into()),
    };
    let code = runtime.block_on(cli.run()).unwrap_or_else(|error| console::report(&error));
    // A thread may be stuck in a write to a terminal that nobody reads; leaving does not wait for it.
    runtime.shutdown_background();
    code
}
