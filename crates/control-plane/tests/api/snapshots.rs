//! Snapshots: made, named, used, deleted, and settled after whatever went wrong.

use std::time::Duration;

use connectrpc::ErrorCode;
use control_plane::Keys;
use model::SnapshotId;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fake_host::SNAPSHOT_BYTES;
use crate::fixture::{Fixture, code};

/// A snapshot of a sandbox, whose name may be empty.
async fn snapshot(server: &Fixture, sandbox: &str, name: &str) -> Value {
    let (status, snapshot) = server.post(&format!("/v1/sandboxes/{sandbox}/snapshots"), json!({"name": name})).await;
    assert_eq!(status, 201, "{snapshot}");
    snapshot
}

async fn delete(server: &Fixture, name: &str) -> (u16, Value) {
    let (status, body) = server.send(Method::DELETE, &format!("/v1/snapshots/{name}"), None).await;
    (status.as_u16(), body)
}

async fn names(server: &Fixture, query: &str) -> Vec<String> {
    let (status, list) = server.get(&format!("/v1/snapshots{query}")).await;
    assert_eq!(status, 200, "{list}");
    let names = list.as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[tokio::test]
async fn a_running_and_a_paused_sandbox_are_captured_and_go_on_as_they_were() {
    let server = Fixture::start().await;
    let (_, sandbox) = server.post("/v1/sandboxes", json!({"vcpus": 2, "memory_mb": 256})).await;
    let id = sandbox["id"].as_str().unwrap();
    let gate = server.host.hold("snapshot");
    let taking = snapshot(&server, id, "First");
    let watching = async {
        server.until_status(id, "snapshotting").await;
        let (_, pending) = server.get("/v1/snapshots/First").await;
        assert_eq!((&pending["status"], &pending["size_bytes"]), (&json!("pending"), &json!(0)));
        let (status, body) = server.post("/v1/sandboxes", json!({"snapshot": "First"})).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"));
        let (status, body) = delete(&server, "First").await;
        assert_eq!((status, code(&body)), (409, "invalid_state"));
        let (status, body) = server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"));
        gate.add_permits(100);
    };
    let (first, ()) = tokio::join!(taking, watching);
    assert_eq!(
        (&first["name"], &first["type"], &first["status"]),
        (&json!("First"), &json!("snapshot"), &json!("ready"))
    );
    assert_eq!(
        (&first["vcpus"], &first["memory_mb"], &first["size_bytes"]),
        (&json!(2), &json!(256), &json!(SNAPSHOT_BYTES))
    );
    assert_eq!((&first["sandbox_id"], &first["template"]), (&json!(id), &json!("minimal")));
    assert_eq!(server.status(id).await, "running");
    assert_eq!(server.post(&format!("/v1/sandboxes/{id}/pause"), json!({})).await.0, 200);
    let second = snapshot(&server, id, "").await;
    assert_eq!(second["name"], second["id"], "what has no name is called by its id");
    assert_eq!(server.status(id).await, "paused");
    for name in ["First", first["id"].as_str().unwrap()] {
        assert_eq!(server.get(&format!("/v1/snapshots/{name}")).await.1, first);
    }
    assert_eq!(server.get("/v1/snapshots/first").await.0, 404, "names differ by case");
}

#[tokio::test]
async fn snapshots_stand_in_one_list_with_templates() {
    let server = Fixture::start().await;
    let (one, two) = (server.create().await, server.create().await);
    snapshot(&server, &one, "a").await;
    snapshot(&server, &two, "b").await;
    assert_eq!(names(&server, "").await, ["minimal", "b", "a"]);
    assert_eq!(names(&server, "?type=base").await, ["minimal"]);
    assert_eq!(names(&server, "?type=snapshot").await, ["b", "a"]);
    assert_eq!(names(&server, &format!("?sandbox_id={one}")).await, ["a"]);
    assert_eq!(names(&server, "?template=minimal").await, ["b", "a"]);
    assert_eq!(names(&server, "?template=other&type=snapshot").await, [""; 0]);
    for wrong in ["?type=x", "?sandbox_id=..", "?template=A"] {
        let (status, body) = server.get(&format!("/v1/snapshots{wrong}")).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{wrong}");
    }
    let base = json!({"name": "minimal", "type": "base", "platform": true, "protected": true});
    assert_eq!(server.get("/v1/snapshots/minimal").await.1, base);
    let (status, body) = delete(&server, "minimal").await;
    assert_eq!((status, code(&body)), (403, "forbidden"));
    for unknown in ["none", "a%2fb", "%00", SnapshotId::random().as_str()] {
        assert_eq!(server.get(&format!("/v1/snapshots/{unknown}")).await.0, 404, "{unknown}");
        let (status, body) = delete(&server, unknown).await;
        assert_eq!((status, code(&body)), (404, "not_found"), "{unknown}");
    }
}

#[tokio::test]
async fn a_sandbox_from_a_snapshot_has_its_shape_and_no_other() {
    let server = Fixture::start().await;
    let (_, sandbox) = server.post("/v1/sandboxes", json!({"vcpus": 2, "memory_mb": 256})).await;
    let made = snapshot(&server, sandbox["id"].as_str().unwrap(), "base").await;
    for wish in [
        json!({"snapshot": "base"}),
        json!({"snapshot": made["id"]}),
        json!({"snapshot": "base", "template": "minimal", "vcpus": 2, "memory_mb": 0, "disk_mb": 5120}),
    ] {
        let (status, child) = server.post("/v1/sandboxes", wish.clone()).await;
        assert_eq!(status, 201, "{wish} {child}");
        assert_eq!(
            (&child["vcpus"], &child["memory_mb"], &child["template"]),
            (&json!(2), &json!(256), &json!("minimal"))
        );
        assert_eq!(child["snapshot_id"], made["id"]);
        let on_host = server.host.state().came_from[child["id"].as_str().unwrap()].clone();
        assert_eq!(made["id"], json!(on_host));
    }
    assert!(server.get("/v1/snapshots/base").await.1["last_used_at"].is_string());
    for (wish, names) in [
        (json!({"snapshot": "base", "vcpus": 1}), "vcpus of snapshot base is 2; got 1"),
        (json!({"snapshot": "base", "memory_mb": 512}), "memory_mb of snapshot base is 256; got 512"),
        (json!({"snapshot": "base", "disk_mb": 300}), "disk_mb of snapshot base is 5120; got 300"),
        (json!({"snapshot": "base", "template": "python311"}), "template of snapshot base is minimal; got python311"),
    ] {
        let (status, body) = server.post("/v1/sandboxes", wish).await;
        assert_eq!(
            (status.as_u16(), code(&body), body["error"]["message"].as_str()),
            (400, "invalid_request", Some(names))
        );
    }
    for (wish, status) in [(json!({"snapshot": "none"}), 404), (json!({"snapshot": "a/b"}), 400)] {
        assert_eq!(server.post("/v1/sandboxes", wish.clone()).await.0, status, "{wish}");
    }
}

#[tokio::test]
async fn clients_of_capsules_take_a_snapshot_for_a_template() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let (status, made) = server.post("/v1/snapshots", json!({"sandbox_id": id, "name": "Mine"})).await;
    assert_eq!((status.as_u16(), &made["name"]), (201, &json!("Mine")));
    let (status, capsule) = server.post("/v1/capsules", json!({"template": "Mine"})).await;
    assert_eq!((status.as_u16(), &capsule["snapshot_id"], &capsule["template"]), (201, &made["id"], &json!("minimal")));
    let (status, body) = server.post("/v1/capsules", json!({"template": "Other"})).await;
    assert_eq!((status.as_u16(), code(&body)), (404, "not_found"));
    let (status, body) = server.post("/v1/sandboxes", json!({"template": "Mine"})).await;
    assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "there it is no template's name");
    let (_, made) = server.post(&format!("/v1/capsules/{id}/snapshots"), json!({})).await;
    assert_eq!(server.post("/v1/capsules", json!({"snapshot": made["id"]})).await.0, 201);
}

#[tokio::test]
async fn a_name_is_refused_taken_or_replaced() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let old = snapshot(&server, &id, "a").await;
    let create = async |query: &str, body: Value| server.post(&format!("/v1/snapshots{query}"), body).await;
    for query in ["", "?overwrite=false"] {
        let (status, body) = create(query, json!({"sandbox_id": id, "name": "a"})).await;
        assert_eq!((status.as_u16(), code(&body)), (409, "conflict"), "{query}");
    }
    let (status, body) = create("?overwrite=true", json!({"sandbox_id": id, "name": "minimal"})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "conflict"));
    assert!(body["error"]["message"].as_str().unwrap().contains("template minimal"), "{body}");
    let like_an_id = SnapshotId::random().to_string();
    for name in ["-a", "a b", "a/b", "..", &"a".repeat(65), &like_an_id] {
        let (status, body) = create("", json!({"sandbox_id": id, "name": name})).await;
        assert_eq!((status.as_u16(), code(&body)), (400, "invalid_request"), "{name}");
    }
    assert_eq!(create("?overwrite=x", json!({"sandbox_id": id})).await.0, 400);
    assert_eq!(create("", json!({"name": "b"})).await.0, 400);
    assert_eq!(create("", json!({"sandbox_id": "none"})).await.0, 404);
    // What came from the old one does not keep its name from being taken.
    let (_, child) = server.post("/v1/sandboxes", json!({"snapshot": "a"})).await;
    let (status, new) = create("?overwrite=true", json!({"sandbox_id": child["id"], "name": "a"})).await;
    assert_eq!((status.as_u16(), &new["name"]), (201, &json!("a")));
    assert_eq!(server.get("/v1/snapshots/a").await.1, new);
    assert_eq!(server.get(&format!("/v1/snapshots/{}", old["id"].as_str().unwrap())).await.0, 404);
    assert_eq!(server.host.state().snapshots.len(), 1);
    // A capture that fails takes nothing.
    server.host.fail("snapshot", ErrorCode::Internal, "broken");
    assert_eq!(create("?overwrite=true", json!({"sandbox_id": id, "name": "a"})).await.0, 502);
    assert_eq!(server.get("/v1/snapshots/a").await.1, new);
}

#[tokio::test]
async fn a_snapshot_that_live_sandboxes_came_from_is_not_deleted() {
    let server = Fixture::start().await;
    let id = server.create().await;
    snapshot(&server, &id, "base").await;
    let mut children = Vec::new();
    for _ in 0..2 {
        let (_, child) = server.post("/v1/sandboxes", json!({"snapshot": "base"})).await;
        children.push(child["id"].as_str().unwrap().to_owned());
    }
    server.post(&format!("/v1/sandboxes/{}/pause", children[0]), json!({})).await;
    let (status, body) = delete(&server, "base").await;
    assert_eq!((status, code(&body)), (409, "conflict"));
    // The two may be of the same millisecond, and then either may be named first.
    let needing = body["error"]["message"].as_str().unwrap().strip_prefix("snapshot base is still needed by ");
    let mut needing: Vec<&str> = needing.expect("it says who needs it").split(", ").collect();
    needing.sort_unstable();
    children.sort_unstable();
    assert_eq!(needing, children);
    for child in &children {
        server.delete(child).await;
    }
    assert_eq!(delete(&server, "base").await.0, 204);
    assert_eq!(delete(&server, "base").await.0, 404);
    assert!(server.host.state().snapshots.is_empty());
    assert_eq!(server.status(&id).await, "running", "what it was captured from is another matter");
}

#[tokio::test]
async fn a_capture_that_fails_leaves_everything_as_it_was() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (failure, status, expected) in [
        (ErrorCode::ResourceExhausted, 507, "no_space"),
        (ErrorCode::Internal, 502, "agent_error"),
        (ErrorCode::Unavailable, 503, "unavailable"),
        (ErrorCode::DeadlineExceeded, 504, "timeout"),
    ] {
        server.host.fail("snapshot", failure, "no");
        let path = format!("/v1/sandboxes/{id}/snapshots");
        let request = server.http.post(server.url(&path)).body(r#"{"name":"a"}"#).send().await.unwrap();
        let retry = request.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(retry.as_deref(), (status == 503).then_some("1"), "{failure:?}");
        let (answered, body) = crate::fixture::answer(request).await;
        assert_eq!((answered.as_u16(), code(&body)), (status, expected));
        assert_eq!(server.status(&id).await, "running");
        assert_eq!(names(&server, "?type=snapshot").await, [""; 0]);
    }
    // It is free for the next one.
    snapshot(&server, &id, "a").await;
    server.delete(&id).await;
    let (status, body) = server.post(&format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    assert_eq!((status.as_u16(), code(&body)), (409, "invalid_state"));
    assert_eq!(body["error"]["message"], "sandbox is not running or paused (status: stopped)");
}

#[tokio::test]
async fn a_delete_that_fails_can_be_repeated_and_is_completed_in_any_case() {
    let server = Fixture::start().await;
    let id = server.create().await;
    snapshot(&server, &id, "a").await;
    server.host.fail("delete_snapshot", ErrorCode::Internal, "stuck");
    assert_eq!(delete(&server, "a").await.0, 502);
    assert_eq!(server.get("/v1/snapshots/a").await.1["status"], "deleting");
    assert_eq!(server.post("/v1/sandboxes", json!({"snapshot": "a"})).await.0, 409);
    assert_eq!(delete(&server, "a").await.0, 204);
    assert!(server.host.state().snapshots.is_empty());
}

#[tokio::test]
async fn a_client_that_hangs_up_or_waits_too_long_gets_its_snapshot_all_the_same() {
    let server = Fixture::with(|config| config.limits.capsule_answer = Duration::from_millis(50)).await;
    let id = server.create().await;
    let gate = server.host.hold("snapshot");
    let url = server.url(&format!("/v1/sandboxes/{id}/snapshots"));
    let request = tokio::spawn(server.http.post(url).body(r#"{"name":"a"}"#).send());
    server.until_status(&id, "snapshotting").await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.add_permits(1);
    server.until_status(&id, "running").await;
    server.until("/v1/snapshots/a", |snapshot| snapshot["status"] == "ready").await;
    let (status, pending) = server.post("/v1/snapshots", json!({"sandbox_id": id, "name": "b"})).await;
    assert_eq!((status.as_u16(), &pending["name"], &pending["status"]), (202, &json!("b"), &json!("pending")));
    gate.add_permits(1);
    server.until("/v1/snapshots/b", |snapshot| snapshot["status"] == "ready").await;
}

#[tokio::test]
async fn a_delete_of_the_sandbox_wins_over_its_capture() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let gate = server.host.hold("snapshot");
    let path = format!("/v1/sandboxes/{id}/snapshots");
    let taking = server.post(&path, json!({"name": "a"}));
    let deleting = async {
        server.until_status(&id, "snapshotting").await;
        let deleted = server.delete(&id).await.0;
        gate.add_permits(1);
        deleted
    };
    let ((taken, _), deleted) = tokio::join!(taking, deleting);
    assert_eq!((taken.as_u16(), deleted.as_u16()), (404, 204));
    assert_eq!(server.status(&id).await, "stopped");
    assert_eq!(names(&server, "?type=snapshot").await, [""; 0]);
}

#[tokio::test]
async fn another_owners_snapshot_is_not_there() {
    let server = Fixture::start().await;
    let keys = Keys::open(&server.config.store).await.unwrap();
    let (_, alice) = keys.create("alice", None).await.unwrap();
    let (_, bob) = keys.create("bob", None).await.unwrap();
    let send = async |key: &str, method: Method, path: &str, body: Value| {
        let request = server.http.request(method, server.url(path)).header("X-API-Key", key).body(body.to_string());
        let (status, body) = crate::fixture::answer(request.send().await.unwrap()).await;
        (status.as_u16(), body)
    };
    let (_, sandbox) = send(&alice, Method::POST, "/v1/sandboxes", json!({})).await;
    let path = format!("/v1/sandboxes/{}/snapshots", sandbox["id"].as_str().unwrap());
    let (status, made) = send(&alice, Method::POST, &path, json!({"name": "a"})).await;
    assert_eq!(status, 201, "{made}");
    for name in ["a", made["id"].as_str().unwrap()] {
        let one = format!("/v1/snapshots/{name}");
        assert_eq!(send(&bob, Method::GET, &one, json!({})).await.0, 404);
        assert_eq!(send(&bob, Method::DELETE, &one, json!({})).await.0, 404);
        assert_eq!(send(&bob, Method::POST, "/v1/sandboxes", json!({"snapshot": name})).await.0, 404);
        assert_eq!(send(&alice, Method::GET, &one, json!({})).await, (200, made.clone()));
    }
    assert_eq!(send(&bob, Method::GET, "/v1/snapshots?type=snapshot", json!({})).await.1, json!([]));
    let (status, _) = send(&bob, Method::POST, "/v1/snapshots", json!({"sandbox_id": sandbox["id"]})).await;
    assert_eq!(status, 404);
    let (_, own) = send(&bob, Method::POST, "/v1/sandboxes", json!({})).await;
    let (status, _) = send(&bob, Method::POST, "/v1/snapshots", json!({"sandbox_id": own["id"], "name": "a"})).await;
    assert_eq!(status, 201, "names are each owner's own");
}

fn impatient(config: &mut control_plane::Config) {
    config.drain = Duration::from_millis(100);
    config.reconcile_interval = Duration::from_millis(50);
    config.orphan_grace = Duration::from_millis(200);
}

#[tokio::test]
async fn what_a_crash_cut_off_is_settled_by_what_the_host_has() {
    for (is_held, expected) in [(true, Some("ready")), (false, None)] {
        let mut server = Fixture::with(impatient).await;
        let id = server.create().await;
        let _gate = server.host.hold("snapshot");
        let url = server.url(&format!("/v1/sandboxes/{id}/snapshots"));
        let request = tokio::spawn(server.http.post(url).body(r#"{"name":"a"}"#).send());
        server.host.until(|state| state.calls.iter().any(|call| call.starts_with("snapshot"))).await;
        let (_, pending) = server.get("/v1/snapshots/a").await;
        server.stop().await;
        request.abort();
        if is_held {
            let snapshot = pending["id"].as_str().unwrap().to_owned();
            server.host.update(|state| state.snapshots.insert(snapshot, id.clone()));
        }
        server.host.hold("snapshot").add_permits(100);
        server.start_again().await;
        assert_eq!(server.status(&id).await, "running");
        let (_, found) = server.get("/v1/snapshots/a").await;
        assert_eq!(found["status"].as_str(), expected, "{found}");
        if is_held {
            assert_eq!(found["size_bytes"], json!(SNAPSHOT_BYTES));
        }
    }
}

#[tokio::test]
async fn records_and_host_are_brought_to_agree_about_snapshots() {
    let server = Fixture::with(impatient).await;
    let id = server.create().await;
    let (kept, lost) = (snapshot(&server, &id, "kept").await, snapshot(&server, &id, "lost").await);
    server.host.update(|state| {
        state.snapshots.remove(lost["id"].as_str().unwrap());
        state.snapshots.insert("snstray".into(), "sbstray".into());
    });
    server.until("/v1/snapshots/lost", |answer| answer["error"]["code"] == "not_found").await;
    let kept = kept["id"].as_str().unwrap();
    server.host.until(|state| state.snapshots.keys().eq([kept])).await;
    assert_eq!(names(&server, "?type=snapshot").await, ["kept"]);
    // A host agent that knows of no snapshots loses nobody any.
    server.host.fail("list_snapshots", ErrorCode::Unimplemented, "too old");
    let passes = server.get("/v1/reconciler").await.1["passes"].as_u64().unwrap();
    server.until("/v1/reconciler", |report| report["passes"].as_u64().unwrap() > passes + 2).await;
    assert_eq!(names(&server, "?type=snapshot").await, ["kept"]);
}

#[tokio::test]
async fn making_and_deleting_one_is_told() {
    let server = Fixture::start().await;
    let id = server.create().await;
    let mut stream =
        server.http.get(server.url("/v1/events/stream")).header("last-event-id", "0").send().await.unwrap();
    let made = snapshot(&server, &id, "a").await;
    delete(&server, "a").await;
    server.host.fail("snapshot", ErrorCode::Internal, "broken");
    server.post(&format!("/v1/sandboxes/{id}/snapshots"), json!({})).await;
    let mut text = String::new();
    let read = async {
        while text.matches("event: template.snapshot").count() < 3 || !text.ends_with("\n\n") {
            text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the events come in time");
    let bodies = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = bodies.map(|body| body.parse().unwrap()).collect();
    let told: Vec<_> =
        events.iter().filter(|event| event["event"].as_str().unwrap().starts_with("template.snapshot")).collect();
    let kinds: Vec<_> = told.iter().map(|event| (event["event"].as_str(), event["outcome"].as_str())).collect();
    let (create, delete) = (Some("template.snapshot.create"), Some("template.snapshot.delete"));
    assert_eq!(kinds, [(create, Some("success")), (delete, Some("success")), (create, Some("error"))]);
    assert_eq!(told[0]["resource"], json!({"id": made["id"], "type": "snapshot"}));
    assert_eq!(told[0]["metadata"], json!({"name": "a", "sandbox_id": id}));
    assert!(told[2]["error"].as_str().unwrap().contains("broken"), "{}", told[2]);
}
