//! `sandpiper bench control-plane` on a small scale: what it prints, and that it leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output};

use serde_json::Value;
use testkit::Postgres;

fn bench(store: &str) -> Output {
    let small = ["--sandboxes", "200", "--hosts", "10", "--rate", "50", "--seconds", "1"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
    command.args(["bench", "control-plane", "--json", "--store", store]).args(small).output().unwrap()
}

fn measures_and_leaves_nothing(store: &str, engine: &str) {
    // Twice: it refuses a database that holds anything.
    for _ in 0..2 {
        let output = bench(store);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(report["store"].as_str().unwrap().starts_with(engine), "{report}");
        assert_eq!((&report["get"]["requests"], &report["list_whole"]["rows"]), (&50.into(), &200.into()));
        let rows: Vec<_> = report["passes"].as_array().unwrap().iter().map(|pass| &pass["rows"]).collect();
        assert_eq!(rows, [&Value::from(20), &Value::from(200)]);
        for figure in [
            &report["get"]["p99_ms"],
            &report["closed_loop"]["requests_per_second"],
            &report["passes"][1]["median_us_per_row"],
            &report["machine"]["cores"],
        ] {
            assert!(figure.as_f64().unwrap() > 0.0, "{report}");
        }
    }
}

#[test]
fn a_control_plane_on_a_file_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    measures_and_leaves_nothing(&format!("sqlite:{}", directory.path().join("bench.db").display()), "SQLite");
}

#[test]
fn a_control_plane_on_postgresql_is_measured() {
    measures_and_leaves_nothing(&Postgres::shared().database(), "PostgreSQL");
}

#[test]
fn a_database_that_holds_something_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let sandpiper = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpiper"));
        command.args(arguments).args(["--data-dir", data_dir]).env_remove("DATABASE_URL").output().unwrap()
    };
    assert!(sandpiper(&["key", "create"]).status.success());
    let refused = bench(&format!("sqlite:{data_dir}/sandpiper.db"));
    assert!(!refused.status.success() && String::from_utf8(refused.stderr).unwrap().contains("empty"));
    let keys: Value = serde_json::from_slice(&sandpiper(&["key", "ls", "--json"]).stdout).unwrap();
    assert_eq!(keys.as_array().unwrap().len(), 1);
}
