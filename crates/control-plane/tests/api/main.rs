//! The control plane over HTTP, with a real database and a host agent that is a script.
// Everything here is a test or helps one: what is unexpected may panic.
#![allow(clippy::unwrap_used)]
#![allow(refining_impl_trait_internal, refining_impl_trait_reachable)]

mod bad_input;
mod bad_input_table;
mod building;
mod capsules;
mod database;
mod disk;
mod domain;
mod drain;
mod e2b;
mod events;
mod exec;
mod exec_stream;
mod fake_files;
mod fake_guest;
mod fake_host;
mod fake_ports;
mod files;
mod fixture;
mod fork;
mod https;
mod idempotency;
mod keys;
mod lifecycle;
mod list;
mod metrics;
mod network;
mod openapi;
mod ports;
mod reconciler;
mod request_id;
mod restart;
mod resume;
mod retention;
mod retries;
mod schemathesis;
mod several;
mod slow_clients;
mod snapshots;
mod status_mapping;
mod stop;
mod terminal;
