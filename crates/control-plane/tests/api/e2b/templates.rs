//! Templates as clients look at them.

use serde_json::{Value, json};

use super::{error, id, sandbox};
use crate::fixture::{Fixture, answer};

const MEMBERS: [&str; 14] = [
    "templateID",
    "buildID",
    "cpuCount",
    "memoryMB",
    "diskSizeMB",
    "public",
    "aliases",
    "names",
    "createdAt",
    "updatedAt",
    "spawnCount",
    "buildCount",
    "envdVersion",
    "buildStatus",
];

#[tokio::test]
async fn templates_have_what_clients_insist_on() {
    let server = Fixture::start().await;
    for path in ["/templates", "/v2/templates", "/default-templates", "/templates?teamID=x"] {
        let (status, all) = server.get(path).await;
        assert_eq!((status.as_u16(), all.as_array().unwrap().len()), (200, 1), "{path}");
        let template = &all[0];
        assert!(MEMBERS.iter().all(|member| !template[member].is_null()), "{template}");
        assert!(template.get("createdBy").is_some() && template.get("lastSpawnedAt").is_some(), "null, and there");
        assert_eq!((&template["templateID"], &template["names"]), (&json!("minimal"), &json!(["sandpiper/minimal"])));
    }
    let (_, template) = server.get("/templates/sandpiper%2Fminimal").await;
    assert_eq!(template["builds"][0]["buildID"], template["buildID"]);
    assert_eq!(server.get("/templates/aliases/minimal").await.1, json!({"templateID": "minimal", "public": false}));
    let gone = server.get("/templates/nothing").await;
    assert_eq!((gone.0.as_u16(), gone.1), (404, error(404, "template 'nothing' not found")));
    assert_eq!(server.get("/v2/templates?limit=0").await.0, 400);
    assert_eq!(server.get("/v2/templates?nextToken=minimal").await.1, json!([]), "nothing comes after it");
}

#[tokio::test]
async fn builds_of_a_template_come_in_pages() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    for tag in ["default", "v2", "v3"] {
        let body = json!({"name": format!("mine:{tag}")});
        assert_eq!(server.post(&format!("/sandboxes/{}/snapshots", id(&made)), body).await.0, 201);
    }
    let page = async |query: &str| {
        let response = server.http.get(server.url(&format!("/templates/mine?{query}"))).send().await.unwrap();
        let token = response.headers().get("x-next-token").map(|token| token.to_str().unwrap().to_owned());
        let (status, body) = answer(response).await;
        assert_eq!((status.as_u16(), &body["buildCount"]), (200, &json!(3)), "{body}");
        (body["builds"].as_array().unwrap().clone(), token)
    };
    let (all, _) = page("").await;
    let (first, token) = page("limit=2").await;
    let (rest, none) = page(&format!("limit=2&nextToken={}", token.unwrap())).await;
    assert_eq!(([first, rest].concat(), none), (all.clone(), None));
    assert!(all.iter().all(|build| build["status"] == "ready" && build["finishedAt"] != Value::Null));
}
