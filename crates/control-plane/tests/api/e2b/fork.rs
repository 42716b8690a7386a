//! Copies of a sandbox.

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::{id, left, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn copies_have_their_own_time_also_where_that_of_what_they_are_of_ends_first() {
    let server = Fixture::start().await;
    let parent = sandbox(&server, json!({"timeout": 2})).await;
    let gate = server.host.hold("create");
    let path = format!("/sandboxes/{}/fork", id(&parent));
    let fork = server.post(&path, json!({"count": 2, "timeout": 60}));
    let late = async {
        gate.add_permits(1);
        server.host.until(|state| state.sandboxes.len() == 2).await;
        // One copy runs while the other is still being made.
        server.host.until(|state| !state.sandboxes.contains_key(id(&parent))).await;
        gate.add_permits(1);
    };
    let ((status, items), ()) = tokio::join!(fork, late);
    assert_eq!(status, 201, "{items}");
    for item in items.as_array().unwrap() {
        let (_, copy) = server.get(&format!("/sandboxes/{}", id(&item["sandbox"]))).await;
        assert_eq!(copy["state"], "running", "{copy}");
        let end: jiff::Timestamp = copy["endAt"].as_str().unwrap().parse().unwrap();
        let left = end.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((1..=60).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn copies_of_a_sandbox_fail_one_by_one() {
    let server = Fixture::start().await;
    let parent = sandbox(&server, json!({})).await;
    let fork = format!("/sandboxes/{}/fork", id(&parent));
    for (failure, code) in [(ErrorCode::ResourceExhausted, 503), (ErrorCode::Internal, 500)] {
        server.host.fail("create", failure, "no room");
        let (status, items) = server.post(&fork, json!({"count": 4, "timeout": 60})).await;
        assert_eq!(status, 201, "{items}");
        let items = items.as_array().unwrap();
        let (made, failed): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.get("sandbox").is_some());
        assert_eq!((made.len(), failed.len()), (3, 1), "{items:?}");
        assert_eq!((&failed[0]["error"]["code"], failed[0].get("sandbox")), (&json!(code), None));
        for one in made {
            assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{}", id(&one["sandbox"])), None).await.0, 204);
        }
        let state = server.host.state();
        assert!(state.snapshots.is_empty() && state.sandboxes.keys().eq([id(&parent)]), "{:?}", state.sandboxes);
    }
    server.host.fail("snapshot", ErrorCode::Internal, "the monitor does not answer");
    assert_eq!(server.post(&fork, json!({"count": 2})).await.0, 500, "where none is begun the call fails");
}

#[tokio::test]
async fn a_fork_has_so_many_copies_as_are_asked_for_and_leaves_its_sandbox_as_it_was() {
    let server = Fixture::start().await;
    let parent = sandbox(&server, json!({"timeout": 500})).await;
    let fork = async |body: Value| server.post(&format!("/sandboxes/{}/fork", id(&parent)), body).await;
    let (status, items) = fork(json!({})).await;
    assert_eq!((status.as_u16(), items.as_array().unwrap().len()), (201, 1), "{items}");
    let copy = &items[0]["sandbox"];
    assert_ne!(copy["envdAccessToken"], parent["envdAccessToken"]);
    assert!((1..=15).contains(&left(&server, id(copy)).await));
    assert!((490..=500).contains(&left(&server, id(&parent)).await));
    assert_eq!(fork(json!({"count": 3})).await.1.as_array().unwrap().len(), 3);
    assert_eq!(server.host.calls("snapshot"), 2, "one for all copies");
    for bad in [json!({"count": 0}), json!({"count": 101}), json!({"count": -1}), json!({"timeout": 0})] {
        assert_eq!(fork(bad.clone()).await.0, 400, "{bad}");
    }
}
