//! Compiles `proto/**.proto` without needing `protoc` on the machine.

use std::path::PathBuf;

const FILES: [&str; 6] = [
    "hostagent/v1/hostagent.proto",
    "hostagent/v1/host.proto",
    "process/process.proto",
    "filesystem/filesystem.proto",
    "direct/direct.proto",
    "session/session.proto",
];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root]).expect("proto files compile");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let set = out.join("descriptors.bin");
    std::fs::write(&set, protox::prost::Message::encode_to_vec(&descriptors)).expect("write descriptors");
    connectrpc_build::Config::new()
        .descriptor_set(&set)
        .files(&FILES)
        .include_file("_connectrpc.rs")
        // Its own would name the descriptor set, which this script writes: cargo would then build anew each time.
        .emit_rerun_directives(false)
        .compile()
        .expect("generate code");
}
