//! Keeping the disk of a sandbox alone, and starting it from that.

use std::time::Duration;

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn a_stopped_sandbox_says_why_and_is_there_until_it_is_deleted() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let one = format!("/v1/sandboxes/{id}");
    let (status, stopped) = server.post(&format!("{one}/stop"), json!(null)).await;
    assert_eq!(
        (status.as_u16(), &stopped["status"], &stopped["status_reason"]),
        (200, &json!("stopped"), &json!("stopped"))
    );
    for path in ["stop", "pause", "exec", "fork"] {
        let (status, body) = server.post(&format!("{one}/{path}"), json!({"cmd": "x"})).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"), "{path}: {body}");
    }
    assert!(server.host.state().sandboxes.contains_key(&id));
    assert_eq!(server.delete(&id).await.0, 204);
    assert!(server.host.state().sandboxes.is_empty(), "its disk is gone");
    assert_eq!(server.post(&format!("{one}/resume"), json!(null)).await.0, 409, "nothing comes back from that");
}

#[tokio::test]
async fn after_a_stop_that_failed_a_sandbox_is_what_it_was() {
    for before in ["running", "paused"] {
        let server = Fixture::start().await;
        let id = server.create().await;
        let one = format!("/v1/sandboxes/{id}");
        if before == "paused" {
            server.post(&format!("{one}/pause"), json!(null)).await;
        }
        server.host.fail("stop", ErrorCode::ResourceExhausted, "no disk space");
        assert_eq!(server.post(&format!("{one}/stop"), json!(null)).await.0, 507);
        assert_eq!(server.status(&id).await, before);
    }
}

#[tokio::test]
async fn a_host_that_stopped_what_was_not_used_is_believed() {
    let server = Fixture::with(|config| config.reconcile_interval = Duration::from_millis(100)).await;
    let (_, sandbox) = server.post("/v1/sandboxes", json!({"timeout_sec": 1, "on_timeout": "stop"})).await;
    assert_eq!(sandbox["on_timeout"], "stop");
    let id = sandbox["id"].as_str().unwrap().to_owned();
    assert_eq!(server.host.state().on_expiry[&id], "stop");
    // Its time has to be over by the record too: else it was the machine that was restarted.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.host.update(|state| state.sandboxes.insert(id.clone(), "stopped".to_owned()));
    server.until_status(&id, "stopped").await;
    let (_, sandbox) = server.get(&format!("/v1/sandboxes/{id}")).await;
    assert_eq!(sandbox["status_reason"], "ttl_expired");
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/resume"), json!(null)).await.0, 200);
}

fn wish(more: &Value) -> Value {
    let mut body = json!({"templateID": "minimal"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

async fn of_e2b(server: &Fixture, more: Value) -> Value {
    let (status, sandbox) = server.post("/v2/sandboxes", wish(&more)).await;
    assert_eq!(status, 201, "{sandbox}");
    sandbox
}

#[tokio::test]
async fn a_pause_without_memory_keeps_the_disk_and_a_connect_without_memory_forgets_the_rest() {
    let server = Fixture::start().await;
    let made = of_e2b(&server, json!({})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let call = async |what: &str, body: Value| server.post(&format!("/sandboxes/{id}/{what}"), body).await;
    let connect = async |body: Value| server.post(&format!("/v2/sandboxes/{id}/connect"), body).await;
    let look = async || server.get(&format!("/sandboxes/{id}")).await.1;
    assert!(look().await.get("pauseMode").is_none(), "it runs");
    assert_eq!(call("pause", json!({"memory": false})).await.0, 204);
    assert_eq!((&look().await["state"], &look().await["pauseMode"]), (&json!("paused"), &json!("filesystem")));
    assert_eq!(server.get("/v2/sandboxes?state=paused").await.1[0]["sandboxID"], id);
    for memory in [true, false] {
        let paused = format!("Error pausing sandbox - sandbox '{id}' is already paused");
        assert_eq!(call("pause", json!({"memory": memory})).await.1["message"], paused);
    }
    let fork = format!("Sandbox '{id}' is paused and cannot be forked; resume it first");
    assert_eq!(call("fork", json!({})).await.1["message"], fork);
    let (status, woken) = connect(json!({"timeout": 100})).await;
    assert_eq!((status.as_u16(), &woken["envdAccessToken"]), (201, &made["envdAccessToken"]));
    assert_eq!(connect(json!({"memory": false})).await.0, 200, "what runs goes on");
    assert_eq!(call("pause", json!({"memory": true})).await.0, 204);
    assert_eq!(look().await["pauseMode"], "full");
    assert_eq!(connect(json!({"memory": false})).await.0, 201);
    let calls = server.host.state().calls.clone();
    let of_it = calls.iter().filter_map(|call| call.strip_suffix(&format!(" {id}")));
    let about: Vec<_> = of_it.filter(|call| *call != "flush").collect();
    assert!(about.ends_with(&["stop", "start", "pause", "start"]), "{about:?}");
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 204);
}

#[tokio::test]
async fn a_time_that_is_over_may_leave_the_disk_alone() {
    let server = Fixture::start().await;
    for given in [json!({"autoPauseMemory": false}), json!({"autoPause": false, "autoPauseMemory": false})] {
        assert_eq!(server.post("/v2/sandboxes", wish(&given)).await.0, 400);
    }
    let traffic = json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}});
    assert_eq!(server.post("/v2/sandboxes", wish(&traffic)).await.0, 400);
    let made = of_e2b(&server, json!({"autoPause": true, "autoPauseMemory": false})).await;
    let id = made["sandboxID"].as_str().unwrap();
    let one = format!("/sandboxes/{id}");
    assert_eq!(server.get(&one).await.1["lifecycle"], json!({"onTimeout": "pause", "autoResume": false}));
    assert_eq!(server.post(&format!("{one}/timeout"), json!({"timeout": 0})).await.0, 204);
    server.until_status(id, "stopped").await;
    assert_eq!(server.get(&one).await.1["pauseMode"], "filesystem");
    assert_eq!(server.post(&format!("/v2{one}/connect"), json!({})).await.0, 201);
    assert_eq!(server.status(id).await, "running");
}

#[tokio::test]
async fn a_connect_without_memory_that_is_refused_forgets_nothing() {
    let server = Fixture::with(|config| config.reconcile_interval = Duration::from_millis(100)).await;
    let made = of_e2b(&server, json!({})).await;
    let id = made["sandboxID"].as_str().unwrap();
    assert_eq!(server.post(&format!("/sandboxes/{id}/pause"), json!({})).await.0, 204);
    server.host.fail("start", ErrorCode::ResourceExhausted, "there is no memory left");
    assert_eq!(server.post(&format!("/v2/sandboxes/{id}/connect"), json!({"memory": false})).await.0, 503);
    server.until_status(id, "paused").await;
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.1["pauseMode"], "full");
}
