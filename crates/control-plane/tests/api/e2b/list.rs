//! Lists of sandboxes.

use serde_json::json;

use super::{error, id, sandbox};
use crate::fixture::{Fixture, answer};

#[tokio::test]
async fn lists_have_pages_that_go_on_in_their_own_order() {
    let server = Fixture::start().await;
    server.create().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(id(&sandbox(&server, json!({"metadata": {"k": "v"}})).await).to_owned());
    }
    let page = async |query: &str| {
        let response = server.http.get(server.url(&format!("/v2/sandboxes?{query}"))).send().await.unwrap();
        let token = response.headers().get("x-next-token").map(|token| token.to_str().unwrap().to_owned());
        let (status, body) = answer(response).await;
        assert_eq!(status, 200, "{body}");
        (body.as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<Vec<_>>(), token)
    };
    let (first, token) = page("limit=2&order=asc").await;
    let token = token.unwrap();
    assert_eq!(page(&format!("limit=2&order=asc&nextToken={token}")).await, (made[2..].to_vec(), None));
    assert_eq!(first, made[..2]);
    let (status, body) = server.get(&format!("/v2/sandboxes?nextToken={token}")).await;
    assert_eq!((status.as_u16(), body), (400, error(400, "Invalid next token")));
    assert_eq!(page("metadata=k%3Dv&state=running%2Cpaused").await.0.len(), 3);
    assert_eq!(page("metadata=k%3Dother").await.0.len(), 0);
    assert_eq!(server.get("/sandboxes").await.1.as_array().unwrap().len(), 3, "what another surface made is not seen");
}

#[tokio::test]
async fn a_list_says_how_many_run_and_begins_with_the_newest() {
    let server = Fixture::start().await;
    let mut made = Vec::new();
    for number in 0..3 {
        made.push(id(&sandbox(&server, json!({"metadata": {"n": number.to_string()}})).await).to_owned());
    }
    assert_eq!(server.post(&format!("/sandboxes/{}/pause", made[0]), json!({})).await.0, 204);
    let list = async |path: &str| {
        let response = server.http.get(server.url(path)).send().await.unwrap();
        let total = response.headers().get("x-total-running").map(|total| total.to_str().unwrap().to_owned());
        let (status, body) = answer(response).await;
        assert_eq!(status, 200, "{body}");
        (body.as_array().unwrap().iter().map(|one| id(one).to_owned()).collect::<Vec<_>>(), total)
    };
    let newest_first: Vec<_> = made.iter().rev().cloned().collect();
    assert_eq!(list("/v2/sandboxes").await, (newest_first.clone(), Some("2".to_owned())));
    assert_eq!(list("/v2/sandboxes?limit=1").await, (newest_first[..1].to_vec(), Some("2".to_owned())));
    assert_eq!(list("/v2/sandboxes?state=paused").await, (made[..1].to_vec(), None));
    assert_eq!(list("/v2/sandboxes?state=running&metadata=n%3D1").await, (made[1..2].to_vec(), Some("1".to_owned())));
    assert_eq!(list("/sandboxes").await, (newest_first[..2].to_vec(), Some("2".to_owned())));
    assert_eq!(list("/sandboxes?metadata=n%3D0").await, (vec![], Some("0".to_owned())), "it does not run");
    for nothing in ["template=none", "template=other/x", "state=paused&metadata=n%3D2"] {
        assert_eq!(list(&format!("/v2/sandboxes?{nothing}")).await.0, Vec::<String>::new(), "{nothing}");
    }
    assert_eq!(list("/v2/sandboxes?template=sandpiper/minimal").await.0.len(), 3);
    let (_, all) = server.get("/v2/sandboxes").await;
    let since = all[1]["startedAt"].as_str().unwrap();
    assert_eq!(list(&format!("/v2/sandboxes?startedAfter={since}")).await.0, newest_first[..2], "it is inclusive");
    for bad in ["state=x", "order=up", "limit=0", "limit=101", "startedAfter=x", "template=minimal:v1", "nextToken=x"] {
        let (status, body) = server.get(&format!("/v2/sandboxes?{bad}")).await;
        assert_eq!((status.as_u16(), &body["code"]), (400, &json!(400)), "{bad}");
    }
    let members = ["templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB"];
    for member in members.into_iter().chain(["state", "envdVersion", "alias", "metadata", "volumeMounts"]) {
        assert!(!all[0][member].is_null(), "{member}: {all}");
    }
}
