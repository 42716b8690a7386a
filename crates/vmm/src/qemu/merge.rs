//! Copying frozen layers into the overlay above them while the guest runs: QEMU's `block-stream` job, followed to its
//! end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::command::{BASE_NODE, FIRST_LAYER_SET, OVERLAY_NODE, layer_nodes};
use super::qmp::Qmp;
use crate::VmError;

/// The job's name; a virtual machine has one at a time.
const JOB: &str = "merge";

const COMMAND: &str = "block-stream";

/// Between two looks at the job.
const INTERVAL: Duration = Duration::from_millis(10);

/// A job that makes no progress for so long is given up.
const STALLED: Duration = Duration::from_secs(30);

/// Merges the layers of a virtual machine that was started with so many.
pub(super) async fn merge_layers(qmp: &Qmp, layer_count: usize) -> Result<(), VmError> {
    let stream = json!({
        "job-id": JOB, "device": OVERLAY_NODE, "base-node": BASE_NODE, "auto-finalize": true, "auto-dismiss": false,
    });
    qmp.execute(COMMAND, stream).await?;
    let merged = follow(qmp).await;
    if merged.is_err() {
        let _ = qmp.execute("job-cancel", json!({ "id": JOB })).await;
        let _ = concluded(qmp).await;
    }
    let _ = qmp.execute("job-dismiss", json!({ "id": JOB })).await;
    merged?;
    let_layers_go(qmp, layer_count).await;
    Ok(())
}

/// Ends a merge that an earlier client of this QEMU has begun, if there is one: the overlay then lies over the layers as
/// before, or needs them no more and may still lie over them.
pub(super) async fn give_up_merge(qmp: &Qmp) -> Result<(), VmError> {
    let jobs = qmp.execute("query-jobs", json!({})).await?;
    if !jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["id"] == JOB)) {
        return Ok(());
    }
    // Fails where it has concluded.
    let _ = qmp.execute("job-cancel", json!({ "id": JOB })).await;
    concluded(qmp).await?;
    qmp.execute("job-dismiss", json!({ "id": JOB })).await.map(drop)
}

/// Returns when the job has ended well.
async fn follow(qmp: &Qmp) -> Result<(), VmError> {
    let job = concluded(qmp).await?;
    match job["error"].as_str() {
        None => Ok(()),
        Some(reason) => Err(VmError::Refused { command: COMMAND, reason: reason.chars().take(400).collect() }),
    }
}

/// Waits until the job has ended, and says how.
async fn concluded(qmp: &Qmp) -> Result<Value, VmError> {
    let (mut progress, mut moved) = (Value::Null, Instant::now());
    loop {
        let jobs = qmp.execute("query-jobs", json!({})).await?;
        let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == JOB));
        let gone = || VmError::Refused { command: COMMAND, reason: "the job is gone".to_owned() };
        let job = job.ok_or_else(gone)?;
        if job["status"] == "concluded" {
            return Ok(job.clone());
        }
        if job["current-progress"] != progress {
            (progress, moved) = (job["current-progress"].clone(), Instant::now());
        }
        if moved.elapsed() > STALLED {
            return Err(VmError::Silent { command: COMMAND });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Closes layers that nothing is over any more. One that stays open costs disk space until the monitor ends.
async fn let_layers_go(qmp: &Qmp, layer_count: usize) {
    for layer in (0..i32::try_from(layer_count).unwrap_or_default()).rev() {
        let (node, file) = layer_nodes(layer);
        for name in [node, file] {
            let _ = qmp.execute("blockdev-del", json!({ "node-name": name })).await;
        }
        let _ = qmp.execute("remove-fd", json!({ "fdset-id": FIRST_LAYER_SET + layer })).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::qmp::tests::fake_qemu;
    use super::*;

    /// Merges two layers in a QEMU whose job ends as `concluded` says, at the second look. Returns how that went and
    /// which commands there were.
    async fn merge(concluded: Value) -> (Result<(), VmError>, Vec<String>) {
        let commands = Arc::new(Mutex::new(Vec::new()));
        let heard = commands.clone();
        let (_directory, qmp) = fake_qemu(move |request| {
            let mut heard = heard.lock().unwrap();
            let command = request["execute"].as_str().unwrap().to_owned();
            let looks = heard.iter().filter(|heard| **heard == "query-jobs").count();
            let value = match (command.as_str(), looks) {
                ("query-jobs", 0) => json!([{ "id": JOB, "status": "running", "current-progress": 1 }]),
                ("query-jobs", _) => json!([concluded.clone()]),
                _ => json!({}),
            };
            heard.push(command);
            Some(json!({ "return": value, "id": request["id"] }).to_string())
        })
        .await;
        let result = merge_layers(&qmp, 2).await;
        let commands = commands.lock().unwrap().clone();
        (result, commands)
    }

    #[tokio::test]
    async fn what_another_client_was_merging_is_given_up_and_nothing_else_is_touched() {
        for (job, expected) in [("other", 0), (JOB, 1)] {
            let dismissed = Arc::new(Mutex::new(0));
            let counter = dismissed.clone();
            let (_directory, qmp) = fake_qemu(move |request| {
                let value = match request["execute"].as_str().unwrap() {
                    "query-jobs" => json!([{ "id": job, "status": "concluded" }]),
                    command => {
                        *counter.lock().unwrap() += u32::from(command == "job-dismiss");
                        json!({})
                    }
                };
                Some(json!({ "return": value, "id": request["id"] }).to_string())
            })
            .await;
            give_up_merge(&qmp).await.unwrap();
            assert_eq!(*dismissed.lock().unwrap(), expected, "{job}");
        }
    }

    #[tokio::test]
    async fn layers_are_closed_once_they_are_merged() {
        let (result, commands) = merge(json!({ "id": JOB, "status": "concluded" })).await;
        result.unwrap();
        let closed = |name: &str| commands.iter().filter(|command| *command == name).count();
        assert_eq!((closed("blockdev-del"), closed("remove-fd"), closed("job-dismiss")), (4, 2, 1));
    }

    #[tokio::test]
    async fn a_merge_that_fails_says_why_and_leaves_the_layers() {
        let job = json!({ "id": JOB, "status": "concluded", "error": "No space left on device" });
        let (result, commands) = merge(job).await;
        assert!(result.unwrap_err().to_string().contains("No space left"));
        assert!(!commands.contains(&"blockdev-del".to_owned()) && commands.contains(&"job-dismiss".to_owned()));
    }
}
