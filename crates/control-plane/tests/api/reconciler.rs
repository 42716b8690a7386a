//! Records and host are brought to agree, whatever happened to either.

use std::time::Duration;

use control_plane::Config;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

fn impatient(config: &mut Config) {
    config.reconcile_interval = Duration::from_millis(50);
    config.orphan_grace = Duration::from_millis(200);
    config.missing_after = Duration::from_millis(200);
}

async fn report(server: &Fixture) -> Value {
    let (status, report) = server.get("/v1/reconciler").await;
    assert_eq!(status, 200, "{report}");
    report
}

/// Waits until `done` says so of the report.
async fn until(server: &Fixture, done: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let report = report(server).await;
            if done(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the report says so in time")
}

#[tokio::test]
async fn what_nobody_wants_is_removed_from_the_host_and_nothing_else() {
    let server = Fixture::with(impatient).await;
    let (wanted, dead) = (server.create().await, server.create().await);
    server.host.update(|state| state.sandboxes.insert(dead.clone(), "error".into()));
    server.until_status(&dead, "error").await;
    let (_, record) = server.get(&format!("/v1/sandboxes/{dead}")).await;
    assert_eq!(record["status_reason"], "its virtual machine failed");
    server.host.update(|state| state.sandboxes.insert("stray".into(), "running".into()));
    server.host.until(|state| state.sandboxes.keys().eq([&wanted])).await;
    let report = until(&server, |report| report["last_pass"]["on_host"] == 1).await;
    assert_eq!((&report["last_pass"]["records"], &report["last_pass"]["failed"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn what_is_just_being_created_is_not_removed() {
    let server = Fixture::with(impatient).await;
    let gate = server.host.hold("create");
    let request = tokio::spawn(server.http.post(server.url("/v1/sandboxes")).body("{}").send());
    let id = server.until_listed().await;
    // It is on the host for longer than the grace time before its creation is answered.
    server.host.update(|state| state.sandboxes.insert(id.clone(), "running".into()));
    let passes = report(&server).await["passes"].as_u64().unwrap();
    until(&server, |report| report["passes"].as_u64().unwrap() > passes + 8).await;
    gate.add_permits(1);
    assert_eq!(request.await.unwrap().unwrap().status(), 201);
    assert!(server.host.state().calls.iter().all(|call| !call.starts_with("destroy")));
}

#[tokio::test]
async fn sandboxes_of_a_silent_host_are_missing_and_come_back_with_it() {
    let mut server = Fixture::with(impatient).await;
    let (running, paused, gone) = (server.create().await, server.create().await, server.create().await);
    assert_eq!(server.post(&format!("/v1/sandboxes/{paused}/pause"), json!(null)).await.0, 200);
    let before = server.get(&format!("/v1/sandboxes/{running}")).await.1;
    server.stop_host();
    for id in [&running, &paused, &gone] {
        server.until_status(id, "missing").await;
    }
    let report = report(&server).await;
    assert!(report["host_silent_since"].is_string() && report["failed_passes"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["last_pass"]["error"], "the host does not answer");
    let (status, body) = server.post(&format!("/v1/sandboxes/{running}/exec"), json!({"cmd": "echo"})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"), "{body}");
    server.host.update(|state| state.sandboxes.remove(&gone));
    server.start_host();
    server.until_status(&running, "running").await;
    server.until_status(&paused, "paused").await;
    server.until_status(&gone, "stopped").await;
    let after = server.get(&format!("/v1/sandboxes/{running}")).await.1;
    assert_eq!((&after["started_at"], &after["last_active_at"]), (&before["started_at"], &before["last_active_at"]));
    let report = until(&server, |report| report["last_pass"]["error"].is_null()).await;
    assert!(report["host_silent_since"].is_null() && report["lag_ms"].is_u64(), "{report}");
}

#[tokio::test]
async fn a_sandbox_whose_time_is_over_has_expired() {
    let server = Fixture::with(impatient).await;
    let (_, sandbox) = server.post("/v1/sandboxes", json!({"timeout_sec": 1})).await;
    let id = sandbox["id"].as_str().unwrap();
    let passes = report(&server).await["passes"].as_u64().unwrap();
    until(&server, |report| report["passes"].as_u64().unwrap() > passes + 20).await;
    server.host.update(|state| state.sandboxes.remove(id));
    server.until_status(id, "stopped").await;
    let (_, record) = server.get(&format!("/v1/sandboxes/{id}")).await;
    assert_eq!(record["status_reason"], "it expired after 1 s without activity");
    let (status, refused) = server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "true"})).await;
    assert_eq!(
        (status.as_u16(), code(&refused), &refused["error"]["timeout"]),
        (409, "invalid_state", &json!("lifetime"))
    );
    let message = "sandbox is not running (status: stopped): it expired after 1 s without activity";
    assert_eq!(refused["error"]["message"], message);
}

#[tokio::test]
async fn a_failure_is_looked_at_without_waiting_for_the_next_tick() {
    let server = Fixture::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let id = server.create().await;
    server.host.fail("pause", connectrpc::ErrorCode::Internal, "broken");
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!(null)).await.0, 502);
    until(&server, |report| report["passes"].as_u64().unwrap() >= 2).await;
}

#[tokio::test]
async fn what_a_host_does_by_itself_is_recorded_soon_after_it_says_so() {
    let mut server = Fixture::with(|config| config.reconcile_interval = Duration::from_secs(3600)).await;
    let (expired, crashed) = (server.create().await, server.create().await);
    server.host.update(|state| state.sandboxes.insert(expired.clone(), "paused".into()));
    server.host.tell();
    server.until_status(&expired, "paused").await;
    // What happens while nobody listens is heard of afterwards.
    server.stop_host();
    server.host.update(|state| state.sandboxes.insert(crashed.clone(), "error".into()));
    server.start_host();
    server.until_status(&crashed, "error").await;
}

#[tokio::test]
async fn a_sandbox_that_its_host_paused_keeps_its_metrics() {
    let mut server = Fixture::with(impatient).await;
    let id = server.create().await;
    server.host.update(|state| state.sandboxes.insert(id.clone(), "paused".into()));
    server.until_status(&id, "paused").await;
    assert_eq!(server.host.calls("flush"), 1);
    server.stop_host();
    let (_, metrics) = server.get(&format!("/v1/sandboxes/{id}/metrics")).await;
    assert_eq!(metrics["points"][0]["mem_bytes"], 11, "{metrics}");
}
