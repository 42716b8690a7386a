//! API keys on the command line, in a database that no server has open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn sandpiper(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
    command.args(arguments).arg("--data-dir").arg(data_dir).env_remove("DATABASE_URL").output().unwrap()
}

#[test]
fn a_key_is_shown_once_and_can_be_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let list = || {
        let output = sandpiper(directory.path(), &["key", "ls", "--json"]);
        let text = String::from_utf8(output.stdout).unwrap();
        (serde_json::from_str::<Value>(&text).unwrap(), text)
    };
    assert_eq!(list().0, serde_json::json!([]));
    let created = sandpiper(directory.path(), &["key", "create", "mine", "--owner", "alice"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let key = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    let digits = key.strip_prefix("e2b_").unwrap();
    assert!(digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");

    let (keys, text) = list();
    assert_eq!(
        (&keys[0]["owner"], &keys[0]["name"], &keys[0]["revoked_at"]),
        (&"alice".into(), &"mine".into(), &Value::Null)
    );
    assert!(!text.contains(digits));
    let id = keys[0]["id"].as_str().unwrap();
    assert!(!sandpiper(directory.path(), &["key", "revoke", "00000000"]).status.success());
    assert!(sandpiper(directory.path(), &["key", "revoke", id]).status.success());
    assert!(list().0[0]["revoked_at"].is_string());
}

#[test]
fn a_bad_database_url_is_refused_without_being_shown() {
    for arguments in [&["key", "ls"][..], &["control-plane", "--listen", "127.0.0.1:0"]] {
        let arguments = [arguments, &["--database-url", "postgres:s3cret@nowhere"]].concat();
        let directory = tempfile::tempdir().unwrap();
        let output = sandpiper(directory.path(), &arguments);
        assert_eq!(output.status.code(), Some(64));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--database-url") && !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn a_server_without_keys_listens_only_on_loopback() {
    let directory = tempfile::tempdir().unwrap();
    let output = sandpiper(directory.path(), &["control-plane", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("key create") && said.contains("--insecure-no-auth"), "{said}");
}

#[test]
fn a_token_key_that_cannot_be_used_ends_the_start_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("other.key");
    let refusal = || {
        let arguments = ["control-plane", "--listen", "127.0.0.1:0", "--token-key", key.to_str().unwrap()];
        let output = sandpiper(directory.path(), &arguments);
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refusal();
    assert!(said.contains("no token key at") && said.contains("/dev/urandom"), "{said}");
    std::fs::write(&key, [1; 32]).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refusal();
    assert!(said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, [1; 31]).unwrap();
    let said = refusal();
    assert!(said.contains("31 bytes"), "{said}");
}
