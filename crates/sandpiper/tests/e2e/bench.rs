//! `sandpiper bench` against a real server, on the smallest scale: every figure is there, and nothing is left.

use serde_json::{Value, json};
use tokio::process::Command;

use super::{binary, server};

#[tokio::test]
async fn every_figure_is_measured_and_nothing_is_left() {
    let server = server(&["--pool", "1"]).await;
    let mut bench = Command::new(binary());
    bench.args(["bench", "--runs", "1", "--burst", "3", "--check", "--json", "--url", server.url()]);
    let output = bench.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let rows = report["rows"].as_array().unwrap();
    for row in rows {
        let (key, median) = (row["key"].as_str().unwrap(), row["median"].as_f64().unwrap());
        assert!(median > 0.0 || ["burst_failures", "cpu_idle", "confinement_pooled"].contains(&key), "{row}");
    }
    let median = |key: &str| {
        let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key} is missing: {said}"));
        row["median"].as_f64().unwrap()
    };
    assert_eq!(median("burst_failures"), 0.0);
    // What is ten times the other on a quiet machine is not less on any.
    assert!(median("pool") < median("boot") && median("restore") < median("boot"), "{rows:?}");
    assert!(median("resume_to_output") > median("resume"), "{rows:?}");
    // What was waited for jail and fence is a part of what the create took, and in the warm pool none.
    assert!(median("confinement") > 0.0 && median("confinement") < median("restore"), "{rows:?}");
    assert_eq!(median("confinement_pooled"), 0.0);
    assert!(median("fork_one") > 0.0 && median("fork_ten") > 0.0 && median("exec") > 0.0, "{rows:?}");

    // Whether they are kept depends on what else the machine does; that each was held against a figure does not.
    let promises = report["promises"].as_array().unwrap();
    assert!(promises.len() >= 9 && promises.iter().all(|promise| promise["measured"].is_number()), "{promises:?}");
    let kept = promises.iter().all(|promise| promise["measured"].as_f64() <= promise["at_most"].as_f64());
    assert_eq!(output.status.success(), kept, "{promises:?}");
    assert!(report["environment"]["cores"].as_u64().unwrap() > 0);

    let left = server.call("GET", "/v1/sandboxes?status=running&status=paused", Value::Null).await;
    assert_eq!(left.body, json!([]));
    let snapshots = server.call("GET", "/v1/snapshots?type=snapshot", Value::Null).await;
    assert_eq!(snapshots.body, json!([]));
}
