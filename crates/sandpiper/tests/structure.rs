//! The rules of ARCHITECTURE.md that the compiler does not check.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Our crates that each of ours may use, besides in its tests.
fn allowed_edges() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let edges: [(&str, &[&str]); 9] = [
        ("proto", &[]),
        ("model", &[]),
        ("vmm", &["model"]),
        ("host-agent", &["model", "proto", "vmm"]),
        ("guest-agent", &["proto"]),
        ("control-plane", &["model", "proto"]),
        ("client", &[]),
        ("sandpiper", &["client", "control-plane", "host-agent", "model", "proto", "vmm"]),
        ("testkit", &[]),
    ];
    edges.into_iter().map(|(name, uses)| (name, uses.iter().copied().collect())).collect()
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let allowed = allowed_edges();
    let crates: BTreeSet<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(crates, allowed.keys().map(|name| (*name).to_owned()).collect(), "a crate is missing in this test");
    for (name, may_use) in &allowed {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for section in ["dependencies", "build-dependencies"] {
            let dependencies = manifest.get(section).and_then(toml::Value::as_table);
            for dependency in dependencies.into_iter().flat_map(toml::Table::keys) {
                let is_ours = allowed.contains_key(dependency.as_str());
                assert!(!is_ours || may_use.contains(dependency.as_str()), "{name} must not use {dependency}");
            }
        }
    }
}

/// Every Rust source of the workspace, relative to its root.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("crates")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 100, "the sources were not found");
    found
}

#[test]
fn modules_of_the_binary_use_only_those_after_them() {
    let order = ["cli", "serve", "templates", "certificate", "config", "console"];
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix("crates/sandpiper/src") else { continue };
        let first = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let Some(place) = order.iter().position(|module| *module == first) else { continue };
        seen.insert(place);
        for earlier in &order[..place] {
            assert!(!text.contains(&format!("crate::{earlier}::")), "{} uses {earlier}", path.display());
        }
    }
    assert_eq!(seen.len(), order.len(), "a module was not found");
}

#[test]
fn unsafe_code_is_only_where_the_architecture_names_it() {
    let places = [
        "crates/host-agent/src/net/",
        "crates/host-agent/src/jail/inside.rs",
        "crates/host-agent/src/jail/landlock.rs",
        "crates/vmm/src/qemu/tsc.rs",
        "crates/guest-agent/src/init/",
        "crates/guest-agent/src/process/",
        "crates/sandpiper/tests/simulation/system.rs",
    ];
    for (path, text) in sources() {
        let allows = text.contains(concat!("allow(", "unsafe_code)"));
        let is_named = places.iter().any(|place| path.starts_with(place));
        assert!(!allows || is_named, "{} allows unsafe code", path.display());
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} does not begin with what it is for", path.display());
    }
}

#[test]
fn sql_is_only_in_the_store() {
    for (path, text) in sources() {
        let is_store = path.starts_with("crates/control-plane/src/store");
        assert!(is_store || !text.contains(concat!("sqlx", "::")), "{} speaks to the database", path.display());
    }
}

#[test]
fn documents_name_only_files_that_exist() {
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let others = ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md"].map(|name| root().join(name));
    for document in pages.chain(others) {
        let text = fs::read_to_string(&document).unwrap();
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let files = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        for file in files {
            let file = file.split('#').next().unwrap();
            assert!(document.parent().unwrap().join(file).exists(), "{} names {file}", document.display());
        }
    }
}

#[test]
fn every_script_is_one_and_what_the_makefile_calls_is_there() {
    for entry in fs::read_dir(root().join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sh") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("#!/usr/bin/env bash\n# "), "{} does not say what it is for", path.display());
            assert!(text.contains("set -euo pipefail"), "{} goes on after errors", path.display());
        }
    }
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for script in makefile.split("scripts/").skip(1).filter_map(|rest| rest.split_whitespace().next()) {
        assert!(root().join("scripts").join(script).exists(), "the Makefile calls {script}");
    }
}
