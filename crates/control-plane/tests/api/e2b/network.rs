//! What sandboxes may reach, replaced as a whole.

use reqwest::Method;
use serde_json::{Value, json};

use super::{UNKNOWN, detail, error, id, sandbox};
use crate::fixture::Fixture;

#[tokio::test]
async fn an_update_replaces_everything_and_what_it_leaves_out_is_cleared() {
    let server = Fixture::start().await;
    let network = json!({"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "maskRequestHost": "localhost:${PORT}"});
    let made = sandbox(&server, json!({"network": network, "allow_internet_access": true})).await;
    let put =
        async |body: Value| server.send(Method::PUT, &format!("/sandboxes/{}/network", id(&made)), Some(body)).await;
    let told = async || {
        let detail = detail(&server, id(&made)).await;
        (detail["network"].clone(), detail["allowInternetAccess"].clone())
    };
    let seen = |allow: Value, deny: Value| json!({"allowOut": allow, "denyOut": deny, "allowPublicTraffic": true, "maskRequestHost": "localhost:${PORT}"});
    assert_eq!(told().await.0, seen(json!(["1.1.1.1"]), json!(["0.0.0.0/0"])));
    assert_eq!(put(json!({"denyOut": ["8.8.8.0/24"]})).await.0, 204);
    assert_eq!(told().await, (seen(json!([]), json!(["8.8.8.0/24"])), json!(true)));
    assert_eq!(put(json!({"allow_internet_access": false})).await.0, 204);
    assert_eq!(told().await, (seen(json!([]), json!([])), json!(false)));
    assert_eq!(put(json!({"allowOut": ["*.example.com"], "denyOut": ["0.0.0.0/0"]})).await.0, 204);
    assert_eq!(put(json!({})).await.0, 204);
    assert_eq!(told().await, (seen(json!([]), json!([])), json!(true)));
    assert_eq!(server.host.state().networks[id(&made)].1, 4, "each holds at once");
    let words = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all \
                 other traffic.";
    assert_eq!(put(json!({"allowOut": ["example.com"]})).await.1, error(400, words));
    for bad in [json!({"denyOut": ["example.com"]}), json!({"allowOut": ["1.1.1.1/33"]}), json!({"allowOut": 1})] {
        assert_eq!(put(bad.clone()).await.0, 400, "{bad}");
    }
    let unknown = server.send(Method::PUT, &format!("/sandboxes/{UNKNOWN}/network"), Some(json!({}))).await;
    assert_eq!(unknown.0, 404);
}

#[tokio::test]
async fn a_private_sandbox_has_a_token_for_its_traffic_and_keeps_it() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({"network": {"allowPublicTraffic": false}})).await;
    assert_eq!(detail(&server, id(&made)).await["network"]["allowPublicTraffic"], false);
    let (_, same) = server.post(&format!("/v2/sandboxes/{}/connect", id(&made)), json!({})).await;
    assert!(made["trafficAccessToken"].is_string() && same["trafficAccessToken"] == made["trafficAccessToken"]);
    for bad in ["http://x", "a b", "\u{fc}.example"] {
        let body = json!({"templateID": "minimal", "network": {"maskRequestHost": bad}});
        assert_eq!(server.post("/v2/sandboxes", body).await.0, 400, "{bad}");
    }
}
