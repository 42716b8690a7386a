//! `make install`: what it puts where, and that systemd takes the units.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn run(action: &[&str], variables: &[(&str, &Path)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/install.sh");
    let mut command = Command::new(script);
    command.args(action).envs(variables.iter().copied());
    for unset in ["DESTDIR", "PREFIX", "UNITDIR", "SYSCONFDIR"] {
        if variables.iter().all(|(name, _)| *name != unset) {
            command.env_remove(unset);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn install(variables: &[(&str, &Path)]) {
    run(&["install", env!("CARGO_BIN_EXE_sandpiper")], variables);
}

fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

#[test]
fn what_is_installed_below_destdir_is_whole_and_goes_again() {
    let destination = tempfile::tempdir().unwrap();
    let variables = [("DESTDIR", destination.path())];
    install(&variables);
    install(&variables);
    let installed = files(destination.path());
    let names: BTreeSet<_> =
        installed.iter().map(|path| path.strip_prefix(destination.path()).unwrap().to_str().unwrap()).collect();
    for name in [
        "usr/local/bin/sandpiper",
        "usr/local/lib/systemd/system/sandpiper.service",
        "usr/local/lib/systemd/system/sandpiper-host-agent.service",
        "usr/local/lib/systemd/system/sandpiper-control-plane.service",
        "usr/local/share/doc/sandpiper/operate.md",
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    let binary = destination.path().join("usr/local/bin/sandpiper");
    assert_eq!(fs::metadata(&binary).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(Command::new(&binary).arg("--version").status().unwrap().success());
    let unit = fs::read_to_string(destination.path().join("usr/local/lib/systemd/system/sandpiper.service")).unwrap();
    // Below no destination: this is where it will be.
    assert!(unit.contains("\nExecStart=/usr/local/bin/sandpiper up\n"), "{unit}");
    for line in ["KillMode=process", "Delegate=yes", "Restart=on-failure"] {
        assert!(unit.lines().any(|is| is == line), "{line}");
    }
    run(&["uninstall"], &variables);
    assert_eq!(files(destination.path()), BTreeSet::new());
}

#[test]
fn no_unit_of_a_host_agent_has_mounts_of_its_own() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
    let gives_mounts =
        ["Protect", "Private", "ReadOnlyPaths", "ReadWritePaths", "Inaccessible", "Bind", "Root", "Temporary"];
    for name in ["sandpiper.service.in", "sandpiper-host-agent.service.in"] {
        let unit = fs::read_to_string(units.join(name)).unwrap();
        let found = unit.lines().find(|line| gives_mounts.iter().any(|start| line.starts_with(start)));
        assert_eq!(found, None, "{name}");
    }
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd is not on this machine");
        return;
    }
    let prefix = tempfile::tempdir().unwrap();
    let units = prefix.path().join("units");
    install(&[("PREFIX", prefix.path()), ("UNITDIR", &units)]);
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(files(&units)).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    let about_ours: Vec<_> = said.lines().filter(|line| line.contains("sandpiper")).collect();
    assert!(about_ours.is_empty() && verified.status.success(), "{said}");
}
