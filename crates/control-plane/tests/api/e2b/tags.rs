//! Tags: what they stand for, who has them, and how they are listed.

use reqwest::Method;
use serde_json::{Value, json};

use super::{error, id, sandbox};
use crate::fixture::{Fixture, answer};

async fn assign(server: &Fixture, target: &str, tags: &[&str]) -> (u16, Value) {
    let (status, body) = server.post("/templates/tags", json!({"target": target, "tags": tags})).await;
    (status.as_u16(), body)
}

/// As the SDK for JavaScript sends it: a body of a length that is not said beforehand.
async fn remove(server: &Fixture, name: &str, tags: &[&str]) -> (u16, Value) {
    let body = json!({"name": name, "tags": tags}).to_string();
    let stream = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(body)]));
    let answered = server.http.delete(server.url("/templates/tags")).body(stream).send().await.unwrap();
    let (status, body) = answer(answered).await;
    (status.as_u16(), body)
}

/// Tags of a template with their builds, by tag.
async fn tags(server: &Fixture, name: &str) -> Vec<(String, String)> {
    let (status, listed) = server.get(&format!("/templates/{name}/tags")).await;
    assert_eq!(status, 200, "{listed}");
    let text = |one: &Value, member: &str| one[member].as_str().unwrap().to_owned();
    let all = listed.as_array().unwrap().iter().map(|one| {
        assert!(one["createdAt"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{one}");
        (text(one, "tag"), text(one, "buildID"))
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

async fn snapshot(server: &Fixture, of: &Value, name: &str) -> Value {
    let (status, made) = server.post(&format!("/sandboxes/{}/snapshots", id(of)), json!({"name": name})).await;
    assert_eq!(status, 201, "{made}");
    made["snapshotID"].clone()
}

/// What the host made a sandbox from that was asked for so; none where that was its own template.
async fn origin(server: &Fixture, template: &str) -> String {
    let made = sandbox(server, json!({"templateID": template})).await;
    server.host.state().came_from[id(&made)].clone()
}

#[tokio::test]
async fn a_tag_of_the_servers_template_is_another_name_of_it() {
    let server = Fixture::start().await;
    let (status, assigned) = assign(&server, "minimal", &[" V1 ", "stable"]).await;
    assert_eq!((status, &assigned["tags"]), (201, &json!(["v1", "stable"])), "{assigned}");
    let build = assigned["buildID"].as_str().unwrap().to_owned();
    let expect = ["default", "stable", "v1"].map(|tag| (tag.to_owned(), build.clone()));
    assert_eq!(tags(&server, "minimal").await, expect);
    let (_, template) = server.get("/templates/minimal").await;
    assert_eq!((&template["buildID"], &template["createdAt"]), (&json!(build), &json!("2023-11-14T22:13:20Z")));
    for name in ["minimal:v1", "sandpiper/minimal:stable", "minimal:V1"] {
        assert_eq!(origin(&server, name).await, "");
        assert_eq!(server.get(&format!("/templates/aliases/{}", name.replace('/', "%2F"))).await.0, 200, "{name}");
    }
    let (status, body) = server.post("/v2/sandboxes", json!({"templateID": "minimal:v2"})).await;
    assert_eq!((status.as_u16(), body), (404, error(404, "template 'minimal:v2' not found")));
    assert_eq!(server.get("/templates/aliases/minimal:v2").await.0, 404);
    assert_eq!(remove(&server, "sandpiper/minimal", &["v1", "v9"]).await.0, 204);
    assert_eq!(tags(&server, "minimal").await, expect[..2]);
    server.host.update(|state| state.rebuilt += 1);
    let after = tags(&server, "minimal").await;
    assert!(
        after[0].1 != build && after[1] == ("stable".to_owned(), after[0].1.clone()),
        "there is no other build: {after:?}"
    );
}

#[tokio::test]
async fn tags_that_make_no_sense_are_refused_and_what_is_not_there_has_none() {
    let server = Fixture::start().await;
    for (target, tags, status) in [
        ("nothing", vec!["v1"], 404),
        ("minimal:v1", vec!["v2"], 404),
        ("other/minimal", vec!["v1"], 404),
        ("minimal", vec![], 400),
        ("minimal", vec!["a b"], 400),
        ("minimal", vec!["v1", "01234567-89ab-cdef-0123-456789abcdef"], 400),
    ] {
        let (answered, body) = assign(&server, target, &tags).await;
        assert_eq!((answered, &body["code"]), (status, &json!(status)), "{target} {tags:?} {body}");
    }
    assert_eq!(tags(&server, "minimal").await.len(), 1, "a refusal gives none of its tags");
    for (name, tags, status) in [
        ("minimal", vec!["default"], 400),
        ("minimal", vec!["v1", "DEFAULT"], 400),
        ("minimal:v1", vec!["v1"], 400),
        ("minimal", vec![], 400),
        ("nothing", vec!["v1"], 404),
    ] {
        assert_eq!(remove(&server, name, &tags).await.0, status, "{name} {tags:?}");
    }
    for path in ["tags", "tags/count", "tags/exists?tag=v1", "tags/groups", "tags/v1/assignments"] {
        assert_eq!(server.get(&format!("/templates/nothing/{path}")).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn each_tag_of_a_name_is_a_snapshot_of_its_own() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    assert_eq!(snapshot(&server, &made, "mine").await, "sandpiper/mine:default");
    assert_eq!(snapshot(&server, &made, "mine:V2").await, "sandpiper/mine:v2");
    let held = || server.host.state().snapshots.len();
    assert_eq!(held(), 2);
    let builds = tags(&server, "mine").await;
    assert_eq!(builds.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>(), ["default", "v2"]);
    assert_ne!(builds[0].1, builds[1].1);
    let (default, second) = (origin(&server, "mine").await, origin(&server, "mine:v2").await);
    assert!(!default.is_empty() && !second.is_empty() && default != second);
    assert_eq!(origin(&server, "sandpiper/mine:default").await, default);
    let (_, template) = server.get("/templates/mine").await;
    assert_eq!((&template["buildCount"], &template["names"]), (&json!(2), &json!(["sandpiper/mine"])));
    assert_eq!(template["builds"].as_array().unwrap().len(), 2);

    // Another tag for the first keeps it when its name is used again.
    assert_eq!(assign(&server, "mine", &["v1"]).await.1["buildID"], builds[0].1.as_str());
    snapshot(&server, &made, "mine").await;
    assert_eq!((held(), origin(&server, "mine:v1").await), (3, default));
    assert_ne!(origin(&server, "mine").await, origin(&server, "mine:v1").await);
    // What has no other is replaced.
    snapshot(&server, &made, "mine:v2").await;
    assert_eq!(held(), 3);
    assert_ne!(origin(&server, "mine:v2").await, second);
    // The name itself can be given to what has a tag.
    assert_eq!(assign(&server, "mine:v1", &["default"]).await.0, 201);
    assert_eq!(origin(&server, "mine").await, origin(&server, "mine:v1").await);
}

#[tokio::test]
async fn a_snapshot_outlives_its_tags_and_they_do_not_outlive_it() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    snapshot(&server, &made, "mine:v1").await;
    snapshot(&server, &made, "mine:v2").await;
    let listed = async |query: &str| {
        let (status, listed) = server.get(&format!("/snapshots{query}")).await;
        assert_eq!(status, 200, "{listed}");
        let ids = listed.as_array().unwrap().iter().map(|one| one["snapshotID"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["sandpiper/mine:v2", "sandpiper/mine:v1"], "the newest first");
    assert_eq!(listed("?name=mine").await.len(), 2);
    assert_eq!(listed("?name=mine:v1").await, ["sandpiper/mine:v1"]);
    assert_eq!((listed("?name=mine:default").await.len(), listed("?name=other").await.len()), (0, 0));
    assert_eq!(server.post("/v2/sandboxes", json!({"templateID": "mine"})).await.0, 404, "nothing is the default");
    assert_eq!(server.get("/templates/aliases/mine").await.0, 200);

    assert_eq!(remove(&server, "mine", &["v2"]).await.0, 204);
    let untagged = listed("").await[0].clone();
    assert!(untagged.starts_with("sn") && untagged.ends_with(":default"), "{untagged}");
    assert!(!origin(&server, &untagged).await.is_empty());
    let (_, given) = assign(&server, &untagged, &["kept"]).await;
    assert_eq!(given["tags"], json!(["kept"]));
    assert_eq!(assign(&server, "mine:v1", &["again"]).await.0, 201);

    let delete = async |name: &str| server.send(Method::DELETE, &format!("/templates/{name}"), None).await.0.as_u16();
    assert_eq!((delete("mine:v9").await, delete("sandpiper%2Fmine:again").await), (404, 204));
    assert_eq!((delete("mine:v1").await, delete("mine").await), (404, 404), "both were one snapshot");
    assert_eq!(listed("").await.len(), 1);
}

#[tokio::test]
async fn a_name_is_deleted_with_all_its_tags_or_not_at_all() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    snapshot(&server, &made, "mine").await;
    snapshot(&server, &made, "mine:v2").await;
    let used = sandbox(&server, json!({"templateID": "mine:v2"})).await;
    let delete = async || server.send(Method::DELETE, "/templates/mine", None).await.0.as_u16();
    assert_eq!(delete().await, 400);
    assert_eq!(tags(&server, "mine").await.len(), 2);
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{}", id(&used)), None).await.0, 204);
    assert_eq!((delete().await, delete().await), (204, 404));
    assert!(server.host.state().snapshots.is_empty());
    assert_eq!(server.send(Method::DELETE, "/templates/minimal", None).await.0, 501);
}

#[tokio::test]
async fn tags_are_counted_looked_for_and_listed_in_pages() {
    let server = Fixture::start().await;
    for tag in ["b", "c", "a"] {
        assert_eq!(assign(&server, "minimal", &[tag]).await.0, 201);
    }
    let get = async |path: &str| server.get(&format!("/templates/minimal/tags/{path}")).await;
    assert_eq!(get("count").await.1, json!({"total": 4}));
    assert_eq!(get("exists?tag=%20B").await.1, json!({"exists": true, "normalizedTag": "b"}));
    assert_eq!(get("exists?tag=x").await.1, json!({"exists": false, "normalizedTag": "x"}));
    assert_eq!((get("exists").await.0.as_u16(), get("exists?tag=a%20b").await.0.as_u16()), (400, 400));
    let page = async |query: &str| {
        let (status, groups) = get(&format!("groups?{query}")).await;
        assert_eq!(status, 200, "{groups}");
        let tags: Vec<_> = groups["tags"].as_array().unwrap().iter().map(|one| one["tag"].clone()).collect();
        (Value::from(tags), groups["nextCursor"].as_str().map(str::to_owned))
    };
    assert_eq!(page("").await, (json!(["a", "b", "c", "default"]), None));
    assert_eq!(page("sort=name_desc").await.0, json!(["default", "c", "b", "a"]));
    assert_eq!(page("search=D").await.0, json!(["default"]));
    let (latest, _) = page("sort=latest_desc").await;
    assert_eq!(latest[3], "default", "that was there before all");
    let (first, next) = page("tagsLimit=3").await;
    let next = next.unwrap();
    assert_eq!(first, json!(["a", "b", "c"]));
    assert_eq!(page(&format!("tagsLimit=3&tagsCursor={next}")).await, (json!(["default"]), None));
    let other = get(&format!("groups?sort=latest_asc&tagsCursor={next}")).await;
    assert_eq!((other.0.as_u16(), other.1), (400, error(400, "Invalid next token")));
    for bad in ["sort=x", "tagsLimit=0", "tagsLimit=101", "assignmentLimit=x", "tagsCursor=x"] {
        assert_eq!(get(&format!("groups?{bad}")).await.0, 400, "{bad}");
    }
    let (_, groups) = get("groups?search=b").await;
    let (status, assignments) = get("b/assignments").await;
    assert_eq!((status.as_u16(), &assignments["nextCursor"]), (200, &Value::Null));
    assert_eq!(assignments["data"], groups["tags"][0]["assignments"]);
    let build = tags(&server, "minimal").await[0].1.clone();
    assert_eq!(assignments["data"][0]["buildId"], build.as_str());
    assert_eq!((get("x/assignments").await.0.as_u16(), get("b/assignments?limit=0").await.0.as_u16()), (404, 400));
}

#[tokio::test]
async fn tags_are_their_owners() {
    let server = Fixture::start().await;
    let keys = control_plane::Keys::open(&server.config.store).await.unwrap();
    let (_, alice) = keys.create("alice", None).await.unwrap();
    let (_, bob) = keys.create("bob", None).await.unwrap();
    let call = async |key: &str, method: Method, path: &str, body: Value| {
        let call = server.http.request(method, server.url(path)).header("x-api-key", key).body(body.to_string());
        answer(call.send().await.unwrap()).await
    };
    let tag = json!({"target": "minimal", "tags": ["v1"]});
    assert_eq!(call(&alice, Method::POST, "/templates/tags", tag).await.0, 201);
    let count = async |key: &str| call(key, Method::GET, "/templates/minimal/tags/count", json!({})).await.1;
    assert_eq!((count(&alice).await, count(&bob).await), (json!({"total": 2}), json!({"total": 1})));
    let create =
        async |key: &str| call(key, Method::POST, "/v2/sandboxes", json!({"templateID": "minimal:v1"})).await.0;
    assert_eq!((create(&alice).await.as_u16(), create(&bob).await.as_u16()), (201, 404));
}
