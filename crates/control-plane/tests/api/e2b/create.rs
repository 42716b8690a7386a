//! Creating a sandbox, and what is told of it.

use serde_json::{Value, json};

use super::{id, sandbox};
use crate::fixture::Fixture;

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
