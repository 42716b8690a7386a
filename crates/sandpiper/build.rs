//! Builds the guest agent, which the binary carries: a static program for the same processor, made by a nested cargo
//! in a target directory of its own (the outer cargo holds the lock of the usual one).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const MUSL: &str = "x86_64-unknown-linux-musl";
const GNU: &str = "x86_64-unknown-linux-gnu";

/// What the guest agent is made of, from the workspace's root.
const INPUTS: [&str; 6] =
    ["crates/guest-agent", "crates/proto", "proto", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"];

/// What cargo tells a build script about its own crate and profile. A nested build must not see it: flags would leak
/// into the guest agent, and every change of it would build everything again.
const OUTER: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_TARGET_DIR",
    "RUSTFLAGS",
    "RUSTC_W",
];

fn main() {
    // Asked now and not when this script was compiled: a target directory may have been filled from another checkout.
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let guest_agent = build(&root, &target_directory().join("guest"));
    println!("cargo::rustc-env=SANDPIPER_GUEST_AGENT={}", guest_agent.display());
}

/// The directory that the outer cargo builds in, wherever its user put it: cargo marks it as a cache.
fn target_directory() -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let marked = out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    marked.unwrap_or(&out).to_path_buf()
}

fn build(root: &Path, target_directory: &Path) -> PathBuf {
    let target = if has_musl() { MUSL } else { GNU };
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    for (name, _) in env::vars_os() {
        let is_outer = name.to_str().is_some_and(|name| OUTER.iter().any(|outer| name.starts_with(outer)));
        if is_outer {
            cargo.env_remove(name);
        }
    }
    if target == GNU {
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    }
    cargo
        // Every guest loads it into memory: it carries nothing that only a debugger reads.
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        // Emulated, larger code is slower already the first time that it is run: never built in haste.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
        .args(["build", "--release", "--locked", "--package", "guest-agent", "--target", target])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target_directory);
    let output = cargo.output().expect("the nested cargo starts");
    assert!(
        output.status.success(),
        "the guest agent does not build for {target}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target_directory.join(target).join("release/guest-agent")
}

/// Whether the toolchain can link for musl: smaller, but not installed everywhere.
fn has_musl() -> bool {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Path::new(&sysroot).join("lib/rustlib").join(MUSL).join("lib").is_dir()
}
