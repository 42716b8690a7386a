//! The control plane, the host agent and what they say to each other, in a simulated world: everything in one thread, by
//! a clock that passes only when nothing else happens and chances that follow from a seed. Monitors, guests, networks and
//! the way to the records are the world's; all else is the product. Each history has a process of its own.
#![allow(clippy::unwrap_used)]

mod bugs;
mod guest;
mod history;
mod host;
mod laws;
mod monitor;
mod network;
mod planes;
mod rpc;
mod run;
mod subjects;
mod system;
mod task;
mod world;

use task::Task;

/// The process of one history. Told by nobody, it is the first one.
#[test]
fn one_history() {
    let task = Task::of_this_process();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    let outcome = task.run_here();
    match std::env::var_os(task::OUTCOME) {
        Some(file) => std::fs::write(file, serde_json::to_vec(&outcome).unwrap()).unwrap(),
        None => {
            println!("{}", outcome.trace);
            assert_eq!(outcome.violations, [] as [String; 0], "{task}");
        }
    }
}
