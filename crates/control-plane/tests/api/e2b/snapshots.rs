//! Snapshots.

use reqwest::Method;
use serde_json::json;

use super::{id, kill, sandbox};
use crate::fixture::{Fixture, answer};

#[tokio::test]
async fn a_snapshot_is_a_template_and_its_name_can_be_given_again() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let path = format!("/sandboxes/{}/snapshots", id(&made));
    for _ in 0..2 {
        let (status, snapshot) = server.post(&path, json!({"name": "mine"})).await;
        let expect = json!({"snapshotID": "sandpiper/mine:default", "names": ["sandpiper/mine"]});
        assert_eq!((status.as_u16(), snapshot), (201, expect));
    }
    assert_eq!(server.get("/snapshots").await.1.as_array().unwrap().len(), 1);
    assert_eq!(server.get("/templates/aliases/mine").await.0, 200);
    assert_eq!(server.get("/templates/aliases/other").await.0, 404);
    let copy = server.post("/v2/sandboxes", json!({"templateID": "sandpiper/mine:default"})).await;
    assert_eq!(copy.0, 201, "{}", copy.1);
    server.send(Method::DELETE, &format!("/sandboxes/{}", id(&copy.1)), None).await;
    let delete = async || server.send(Method::DELETE, "/templates/sandpiper%2Fmine%3Adefault", None).await.0;
    assert_eq!((delete().await.as_u16(), delete().await.as_u16()), (204, 404));
}

#[tokio::test]
async fn a_list_of_snapshots_goes_on_whatever_is_deleted_meanwhile() {
    let server = Fixture::start().await;
    let (one, other) = (sandbox(&server, json!({})).await, sandbox(&server, json!({})).await);
    for (of, name) in [(&one, "a"), (&one, "b"), (&other, "c"), (&one, "")] {
        assert_eq!(server.post(&format!("/sandboxes/{}/snapshots", id(of)), json!({"name": name})).await.0, 201);
    }
    let page = async |query: &str| {
        let response = server.http.get(server.url(&format!("/snapshots?{query}"))).send().await.unwrap();
        let token = response.headers().get("x-next-token").map(|token| token.to_str().unwrap().to_owned());
        let (status, body) = answer(response).await;
        assert_eq!(status, 200, "{body}");
        let ids = body.as_array().unwrap().iter().map(|one| one["snapshotID"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<_>>(), token)
    };
    let (first, token) = page("limit=2").await;
    assert!(first[0].starts_with("sn") && first[1] == "sandpiper/c:default", "{first:?}");
    assert_eq!(server.send(Method::DELETE, "/templates/sandpiper%2Fc:default", None).await.0, 204);
    let rest = ["sandpiper/b:default", "sandpiper/a:default"].map(str::to_owned).to_vec();
    assert_eq!(page(&format!("limit=2&nextToken={}", token.unwrap())).await, (rest, None));
    assert_eq!(page(&format!("sandboxID={}", id(&one))).await.0.len(), 3);
    assert_eq!(page(&format!("sandboxID={}", id(&other))).await.0.len(), 0);
    for bad in ["limit=0", "limit=101", "nextToken=x"] {
        assert_eq!(server.get(&format!("/snapshots?{bad}")).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_used_is_not_deleted_and_a_templates_name_is_not_taken() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let path = format!("/sandboxes/{}/snapshots", id(&made));
    assert_eq!(server.post(&path, json!({"name": "mine"})).await.0, 201);
    for bad in ["minimal", "minimal:v1", "a b", "other/x", "x:a b"] {
        let (status, body) = server.post(&path, json!({ "name": bad })).await;
        assert_eq!((status.as_u16(), &body["code"]), (400, &json!(400)), "{bad}: {body}");
    }
    let used = sandbox(&server, json!({"templateID": "mine"})).await;
    let delete = async || server.send(Method::DELETE, "/templates/mine:default", None).await.0.as_u16();
    assert_eq!(delete().await, 400);
    assert_eq!(server.post(&format!("/sandboxes/{}/pause", id(&used)), json!({})).await.0, 204);
    assert_eq!(delete().await, 400, "a paused one uses it too");
    assert_eq!(kill(&server, id(&used)).await, 204);
    assert_eq!((delete().await, delete().await), (204, 404));
}
