//! `sandpiper ca` on the command line, and the flags of TLS. Who is let in with the certificates is tested on real
//! connections elsewhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn sandpiper(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sandpiper")).args(arguments).output().unwrap()
}

fn ca(directory: &Path, arguments: &[&str]) -> Output {
    sandpiper(&[&["ca"], arguments, &["--dir", directory.to_str().unwrap()]].concat())
}

#[test]
fn keys_are_private_and_nothing_is_replaced_by_accident() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().join("ca");
    assert!(!ca(&directory, &["issue", "control-plane", "plane"]).status.success(), "there is no authority yet");
    for arguments in [&["init"][..], &["issue", "host-agent", "host.example"], &["issue", "control-plane", "plane"]] {
        let (made, again) = (ca(&directory, arguments), ca(&directory, arguments));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for path in String::from_utf8(made.stdout).unwrap().lines() {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
        }
        assert!(!again.status.success() && String::from_utf8(again.stderr).unwrap().contains("is there already"));
    }
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let certificate = directory.join("host-agent-host.example.crt");
    let before = fs::read(&certificate).unwrap();
    assert!(ca(&directory, &["issue", "host-agent", "host.example", "--renew", "--days", "7"]).status.success());
    assert_ne!(fs::read(&certificate).unwrap(), before);
}

#[test]
fn certificates_say_who_for_which_role_and_until_when() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(ca(path, &["init"]).status.success());
    assert!(ca(path, &["issue", "host-agent", "host.example", "--san", "192.0.2.7"]).status.success());
    assert!(ca(path, &["issue", "control-plane", "plane"]).status.success());
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(path).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, purpose) in [("host-agent-host.example.crt", "sslserver"), ("control-plane-plane.crt", "sslclient")] {
        openssl(&["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", name]);
    }
    let text = openssl(&["x509", "-noout", "-text", "-in", "host-agent-host.example.crt"]);
    for expected in ["DNS:host.example", "IP Address:192.0.2.7", "DNS:host-agent.role.sandpiper.internal"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(text.contains("TLS Web Server Authentication") && !text.contains("TLS Web Client Authentication"));
    let day = 24 * 3600;
    let ends = |name: &str, after: u32| {
        let after = after.to_string();
        let arguments = ["x509", "-noout", "-checkend", &after, "-in", name];
        !Command::new("openssl").args(arguments).current_dir(path).output().unwrap().status.success()
    };
    assert!(!ends("control-plane-plane.crt", 363 * day) && ends("control-plane-plane.crt", 366 * day));
    assert!(!ends("ca.crt", 3648 * day) && ends("ca.crt", 3651 * day));
}

#[test]
fn names_that_are_none_and_names_of_roles_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(ca(directory.path(), &["init"]).status.success());
    for name in ["../x", "a b", "control-plane.role.sandpiper.internal"] {
        let refused = ca(directory.path(), &["issue", "host-agent", name]);
        assert_eq!(refused.status.code(), Some(2), "{name}");
    }
}

#[test]
fn nobody_listens_or_calls_elsewhere_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    for (arguments, named) in [
        (&["host-agent", "--listen", "0.0.0.0:0"][..], "--tls-ca"),
        (&["control-plane", "--listen", "127.0.0.1:0", "--host-agent", "http://192.0.2.7:50051"], "without TLS"),
        (&["control-plane", "--listen", "127.0.0.1:0", "--host-agent", "https://192.0.2.7:50051"], "--tls-cert"),
    ] {
        let refused = sandpiper(&[arguments, &["--data-dir", data_dir]].concat());
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), said.contains(named)), (Some(64), true), "{said}");
    }
    let part = sandpiper(&["host-agent", "--tls-ca", "/x", "--data-dir", data_dir]);
    assert_eq!(part.status.code(), Some(2), "all three files or none");
}
