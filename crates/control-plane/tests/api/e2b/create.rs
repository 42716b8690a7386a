//! Creating a sandbox, and what is told of it.

use serde_json::{Value, json};

use super::{detail, error, id, in_chunks, left, sandbox};
use crate::fixture::{Fixture, answer};

#[tokio::test]
async fn a_sandbox_has_what_a_client_needs_to_speak_with_it() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({"metadata": {"a b": "c/d"}, "autoPause": true, "envVars": {"A": "b"}})).await;
    assert_eq!((&made["templateID"], &made["envdVersion"]), (&json!("minimal"), &json!("0.6.13")));
    assert_eq!(made["envdAccessToken"].as_str().unwrap().len(), 40);
    assert_eq!((&made["trafficAccessToken"], &made["domain"]), (&Value::Null, &Value::Null));
    let (status, detail) = server.get(&format!("/sandboxes/{}-client", id(&made))).await;
    assert_eq!((status.as_u16(), &detail["state"]), (200, &json!("running")), "{detail}");
    assert_eq!(detail["lifecycle"], json!({"onTimeout": "pause", "autoResume": false}));
    assert_eq!((&detail["metadata"], &detail["volumeMounts"]), (&json!({"a b": "c/d"}), &json!([])));
    let (_, private) = server
        .post(
            "/v2/sandboxes",
            json!({"templateID": "sandpiper/minimal:default", "network": {"allowPublicTraffic": false}}),
        )
        .await;
    assert!(private["trafficAccessToken"].is_string(), "{private}");
    let (_, open) = server.post("/sandboxes", json!({"templateID": "minimal", "secure": false})).await;
    assert_eq!(open.get("envdAccessToken"), None, "{open}");
}

#[tokio::test]
async fn the_versions_differ_in_time_and_in_who_may_speak_with_the_guest() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({"somethingNew": {"of": "a later client"}})).await;
    assert!((290..=300).contains(&left(&server, id(&made)).await));
    let (_, old) = server.post("/sandboxes", json!({"templateID": "minimal"})).await;
    assert!((5..=15).contains(&left(&server, id(&old)).await));
    assert_eq!(old.get("envdAccessToken"), None);
    let (_, secure) = server.post("/sandboxes", json!({"templateID": "minimal", "secure": true})).await;
    assert!(secure["envdAccessToken"].is_string());
    let private = json!({"templateID": "minimal", "network": {"allowPublicTraffic": false}});
    let (status, body) = server.post("/sandboxes", private.clone()).await;
    let expect = error(400, "allowPublicTraffic can be false for a secured sandbox only");
    assert_eq!((status.as_u16(), body), (400, expect));
    assert_eq!(server.post("/v2/sandboxes", private).await.0, 201);
    for bad in [json!({}), json!({"templateID": 1}), json!({"templateID": "minimal", "timeout": "5"})] {
        let (status, body) = server.post("/v2/sandboxes", bad.clone()).await;
        assert_eq!((status.as_u16(), &body["code"]), (400, &json!(400)), "{bad}");
    }
}

#[tokio::test]
async fn a_request_under_a_key_makes_one_sandbox() {
    let server = Fixture::start().await;
    let create = async |path: &str, key: &str, body: Value| {
        let call = server.http.post(server.url(path)).header("idempotency-key", key).body(in_chunks(&body));
        let (status, body) = answer(call.send().await.unwrap()).await;
        (status.as_u16(), body)
    };
    let body = json!({"templateID": "minimal", "metadata": {}});
    for path in ["/v2/sandboxes", "/sandboxes"] {
        let key = path.replace('/', "-");
        let (first, again) = (create(path, &key, body.clone()).await, create(path, &key, body.clone()).await);
        assert_eq!((first.0, &again), (201, &first), "with its token");
    }
    assert_eq!(server.host.calls("create"), 2);
    let (status, other) = create("/v2/sandboxes", "-sandboxes", json!({"templateID": "minimal", "timeout": 7})).await;
    assert_eq!((status, &other["code"]), (409, &json!(409)), "{other}");
    for bad in ["", "a b", &"x".repeat(256)] {
        assert_eq!(create("/v2/sandboxes", bad, body.clone()).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn what_is_null_or_empty_is_as_if_it_were_not_there() {
    let server = Fixture::start().await;
    let nulls = json!({
        "timeout": null, "autoPause": null, "autoResume": null, "allow_internet_access": null, "network": null,
        "metadata": null, "envVars": null, "mcp": null, "iam": null, "volumeMounts": null,
    });
    let empty = json!({
        "network": {"allowOut": [], "denyOut": [], "rules": {}, "egressProxy": null, "allowPublicTraffic": null},
        "metadata": {}, "envVars": {}, "iam": {"tokens": {}}, "volumeMounts": [],
    });
    for members in [nulls, empty] {
        let made = sandbox(&server, members).await;
        let detail = detail(&server, id(&made)).await;
        assert_eq!((&detail["metadata"], &detail["allowInternetAccess"]), (&json!({}), &json!(true)), "{detail}");
        assert_eq!(detail["lifecycle"], json!({"onTimeout": "kill", "autoResume": false}));
        assert_eq!(made["trafficAccessToken"], Value::Null);
    }
    for name in ["", "a=b", "a\0"] {
        let (status, body) =
            server.post("/v2/sandboxes", json!({"templateID": "minimal", "envVars": {name: "x"}})).await;
        assert_eq!((status.as_u16(), &body["code"]), (400, &json!(400)), "{name:?}");
    }
}
