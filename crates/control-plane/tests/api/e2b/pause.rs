//! Pausing, and going on.

use std::time::Duration;

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::{detail, error, id, kill, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn pauses_and_resumes_have_the_statuses_that_clients_branch_on() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let id = id(&made);
    let call = async |what: &str, body: Value| server.post(&format!("/sandboxes/{id}/{what}"), body).await;
    let connect = async || server.post(&format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 100})).await;
    let (status, same) = connect().await;
    assert_eq!((status.as_u16(), &same["envdAccessToken"]), (200, &made["envdAccessToken"]));
    assert_eq!(call("pause", json!({})).await.0, 204);
    let paused = format!("Error pausing sandbox - sandbox '{id}' is already paused");
    assert_eq!(call("pause", json!({})).await.1, error(409, &paused));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 409);
    let fork = format!("Sandbox '{id}' is paused and cannot be forked; resume it first");
    assert_eq!(call("fork", json!({})).await.1, error(409, &fork));
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.1["state"], "paused");
    let (status, woken) = connect().await;
    assert_eq!((status.as_u16(), &woken["envdAccessToken"]), (201, &made["envdAccessToken"]));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 204);
    assert_eq!(call("refreshes", json!({})).await.0, 204);
    assert_eq!(call("resume", json!({})).await.0, 409, "it runs");
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 204);
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 404);
}

#[tokio::test]
async fn a_pause_that_fails_changes_nothing() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let pause = format!("/sandboxes/{}/pause", id(&made));
    server.host.fail("pause", ErrorCode::Unavailable, "not now");
    let (status, body) = server.post(&pause, json!({})).await;
    assert_eq!((status.as_u16(), body), (503, error(503, "unavailable: not now")));
    assert_eq!(detail(&server, id(&made)).await["state"], "running");
    assert_eq!(server.post(&pause, json!({})).await.0, 204);
}

#[tokio::test]
async fn a_pause_may_be_refused_where_the_guest_agent_is_not_well() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let pause = format!("/sandboxes/{}/pause", id(&made));
    server.host.fail("health", ErrorCode::Unavailable, "no answer");
    let (status, body) = server.post(&pause, json!({"requireHealthyGuest": true})).await;
    let code = "sandbox_snapshot_guest_agent_unresponsive";
    assert_eq!((status.as_u16(), &body["code"], &body["error_code"]), (409, &json!(409), &json!(code)));
    assert!(body["message"].is_string() && server.host.calls("pause") == 0);
    assert_eq!(server.post(&pause, json!({"requireHealthyGuest": true})).await.0, 204, "it answers again");
    let (status, _) = server.post(&format!("/sandboxes/{}/connect", id(&made)), json!({"timeout": 60})).await;
    assert_eq!(status, 201);
    server.host.fail("health", ErrorCode::Unavailable, "no answer");
    assert_eq!(server.post(&pause, json!({})).await.0, 204, "who does not ask for it does not wait for it");
}

#[tokio::test]
async fn what_is_under_way_is_said_and_a_pausing_sandbox_counts_as_paused() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let call = async |what: &str, body: Value| server.post(&format!("/sandboxes/{}/{what}", id(&made)), body).await;
    let conflict = |doing: &str| error(409, &format!("Sandbox \"{}\" {doing}", id(&made)));
    let gate = server.host.hold("pause");
    let while_pausing = async {
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("pause "))).await;
        assert_eq!(detail(&server, id(&made)).await["state"], "paused");
        assert_eq!(server.get("/v2/sandboxes?state=paused").await.1.as_array().unwrap().len(), 1);
        for what in ["pause", "timeout"] {
            assert_eq!(call(what, json!({"timeout": 5})).await.1, conflict("is being paused"), "{what}");
        }
        gate.add_permits(1);
    };
    let ((status, _), ()) = tokio::join!(call("pause", json!({})), while_pausing);
    assert_eq!(status, 204);
    gate.add_permits(1);
    assert_eq!(call("connect", json!({})).await.0, 201);
    let gate = server.host.hold("snapshot");
    let while_captured = async {
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("snapshot "))).await;
        assert_eq!(call("pause", json!({})).await.1, conflict("is being snapshotted"));
        assert_eq!(call("connect", json!({})).await.0, 200, "it runs");
        gate.add_permits(1);
    };
    tokio::join!(call("snapshots", json!({})), while_captured);
    let gate = server.host.hold("destroy");
    let while_killed = async {
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("destroy "))).await;
        for what in ["connect", "pause", "fork", "resume"] {
            assert_eq!(call(what, json!({})).await.1, conflict("is being killed"), "{what}");
        }
        assert_eq!(server.get(&format!("/sandboxes/{}", id(&made))).await.0, 404);
        assert_eq!(server.get("/v2/sandboxes").await.1, json!([]));
        gate.add_permits(2);
    };
    let ((first, second), ()) =
        tokio::join!(async { tokio::join!(kill(&server, id(&made)), kill(&server, id(&made))) }, while_killed);
    assert_eq!(
        (first, second, kill(&server, id(&made)).await),
        (204, 204, 404),
        "who kills it too is told that it is gone"
    );
}

#[tokio::test]
async fn a_sandbox_in_transition_is_waited_for_and_a_paused_one_can_be_killed() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let call = async |what: &str| server.post(&format!("/sandboxes/{}/{what}", id(&made)), json!({})).await;
    let gate = server.host.hold("pause");
    let begun = async {
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("pause "))).await;
        let opened = async { gate.add_permits(1) };
        tokio::join!(call("connect"), opened).0
    };
    let (paused, connected) = tokio::join!(call("pause"), begun);
    assert_eq!((paused.0.as_u16(), connected.0.as_u16()), (204, 201), "{}", connected.1);
    gate.add_permits(1);
    assert_eq!(call("pause").await.0, 204);
    assert_eq!((kill(&server, id(&made)).await, kill(&server, id(&made)).await), (204, 404));
    assert!(server.host.state().sandboxes.is_empty());
}

#[tokio::test]
async fn a_pause_without_memory_keeps_the_disk_and_a_connect_without_memory_forgets_the_rest() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let id = id(&made);
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
    for given in [
        json!({"templateID": "minimal", "autoPauseMemory": false}),
        json!({"templateID": "minimal", "autoPause": false, "autoPauseMemory": false}),
    ] {
        assert_eq!(server.post("/v2/sandboxes", given).await.0, 400);
    }
    let traffic =
        json!({"templateID": "minimal", "autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}});
    assert_eq!(server.post("/v2/sandboxes", traffic).await.0, 400);
    let made = sandbox(&server, json!({"autoPause": true, "autoPauseMemory": false})).await;
    let id = id(&made);
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
    let made = sandbox(&server, json!({})).await;
    let id = id(&made);
    assert_eq!(server.post(&format!("/sandboxes/{id}/pause"), json!({})).await.0, 204);
    server.host.fail("start", ErrorCode::ResourceExhausted, "there is no memory left");
    assert_eq!(server.post(&format!("/v2/sandboxes/{id}/connect"), json!({"memory": false})).await.0, 503);
    server.until_status(id, "paused").await;
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.1["pauseMode"], "full");
}
