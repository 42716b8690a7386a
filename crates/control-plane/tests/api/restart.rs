//! What an earlier process left unfinished, and a host that changes by itself.

use std::time::Duration;

use serde_json::json;

use crate::fixture::Fixture;

/// Runs `action` on a sandbox, cuts the control plane off in the middle, and returns the sandbox's id.
async fn cut_off_during(server: &mut Fixture, method: &'static str) -> String {
    let id = if method == "create" { None } else { Some(server.create().await) };
    let _gate = server.host.hold(method);
    let (verb, path) = match &id {
        None => (reqwest::Method::POST, "/v1/sandboxes".to_owned()),
        Some(id) if method == "destroy" => (reqwest::Method::DELETE, format!("/v1/sandboxes/{id}")),
        Some(id) => (reqwest::Method::POST, format!("/v1/sandboxes/{id}/{method}")),
    };
    let request = tokio::spawn(server.http.request(verb, server.url(&path)).body("{}").send());
    server.host.until(|state| state.calls.iter().any(|call| call.starts_with(method))).await;
    let id = match id {
        None => server.until_listed().await,
        Some(id) => id,
    };
    server.stop().await;
    request.abort();
    id
}

fn impatient(config: &mut control_plane::Config) {
    config.drain = Duration::from_millis(100);
    config.reconcile_interval = Duration::from_millis(100);
}

#[tokio::test]
async fn leftovers_are_settled_by_what_the_host_has() {
    for (method, on_host, expected) in [
        ("create", None, "error"),
        ("create", Some("running"), "running"),
        ("pause", Some("running"), "running"),
        ("pause", Some("paused"), "paused"),
        ("pause", None, "stopped"),
        ("stop", Some("running"), "running"),
        ("stop", Some("stopped"), "stopped"),
        ("stop", None, "stopped"),
        ("destroy", Some("running"), "stopped"),
        ("destroy", None, "stopped"),
    ] {
        let mut server = Fixture::with(impatient).await;
        let id = cut_off_during(&mut server, method).await;
        server.host.update(|state| {
            state.sandboxes.remove(&id);
            if let Some(status) = on_host {
                state.sandboxes.insert(id.clone(), status.to_owned());
            }
        });
        server.host.hold(method).add_permits(100);
        server.start_again().await;
        let (_, sandbox) = server.get(&format!("/v1/sandboxes/{id}")).await;
        assert_eq!(sandbox["status"], expected, "{method}, host {on_host:?}: {sandbox}");
        if expected == "error" {
            assert!(sandbox["status_reason"].as_str().unwrap().contains("restarted"), "{sandbox}");
        }
        let is_kept = expected == on_host.unwrap_or_default();
        assert_eq!(server.host.state().sandboxes.contains_key(&id), is_kept);
    }
}

#[tokio::test]
async fn leftovers_wait_for_a_host_that_does_not_answer() {
    let mut server = Fixture::with(impatient).await;
    let id = cut_off_during(&mut server, "create").await;
    server.stop_host();
    server.start_again().await;
    assert_eq!(server.status(&id).await, "pending", "a silent host changes nothing");
    server.start_host();
    server.until_status(&id, "error").await;
}

#[tokio::test]
async fn a_sandbox_that_is_gone_from_its_host_is_stopped_and_a_paused_one_paused() {
    let server = Fixture::with(impatient).await;
    let (gone, paused) = (server.create().await, server.create().await);
    server.host.update(|state| {
        state.sandboxes.remove(&gone);
        state.sandboxes.insert(paused.clone(), "paused".into());
    });
    server.until_status(&gone, "stopped").await;
    server.until_status(&paused, "paused").await;
    let (_, sandbox) = server.get(&format!("/v1/sandboxes/{gone}")).await;
    assert_eq!(sandbox["status_reason"], "it is no longer on its host");
}

#[tokio::test]
async fn records_survive_a_restart() {
    let mut server = Fixture::start().await;
    let id = server.create().await;
    let before = server.get("/v1/sandboxes").await;
    server.restart().await;
    assert_eq!(server.get("/v1/sandboxes").await, before);
    let (status, _) = server.post(&format!("/v1/sandboxes/{id}/exec"), json!({"cmd": "echo"})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_shutdown_lets_work_under_way_end() {
    let mut server = Fixture::start().await;
    let gate = server.host.hold("create");
    let request = tokio::spawn(server.http.post(server.url("/v1/sandboxes")).body("{}").send());
    server.host.until(|state| state.calls.iter().any(|call| call.starts_with("create"))).await;
    let host = server.host.clone();
    let release = async {
        // The server has been told to end before the boot is over.
        gate.add_permits(1);
        host.until(|state| !state.sandboxes.is_empty()).await;
    };
    tokio::join!(server.stop(), release);
    assert_eq!(request.await.unwrap().unwrap().status(), 201);
}
