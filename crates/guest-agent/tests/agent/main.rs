//! Drives a real agent over the wire: with the generated clients, with JSON as the published clients write it, and
//! with plain HTTP. What only PID 1 does is shown where virtual machines boot.
#![allow(missing_docs, clippy::unwrap_used)]

mod access;
mod direct;
mod files;
mod filesystem;
mod harness;
mod input;
mod local;
mod processes;
mod sessions;
mod terminals;
mod tricks;
mod watching;
mod wire;
