//! Refusals: their statuses, words and headers.

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::{UNKNOWN, error};
use crate::fixture::Fixture;

#[tokio::test]
async fn what_is_wrong_is_said_in_the_words_that_clients_look_for() {
    let server = Fixture::start().await;
    let gone = error(404, &format!("Sandbox \"{UNKNOWN}\" doesn't exist or you don't have access to it"));
    for (method, path) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::POST, "/pause"),
        (Method::POST, "/connect"),
        (Method::POST, "/fork"),
        (Method::POST, "/snapshots"),
        (Method::GET, "/metrics"),
        (Method::GET, "/logs"),
        (Method::PUT, "/network"),
    ] {
        let body = (method != Method::GET).then(|| json!({}));
        let answered = server.send(method.clone(), &format!("/sandboxes/{UNKNOWN}{path}"), body).await;
        assert_eq!((answered.0.as_u16(), &answered.1), (404, &gone), "{method} {path}");
    }
    let refused = async |body: Value| server.post("/v2/sandboxes", body).await;
    let names = "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out to block all \
                 other traffic.";
    for (body, message) in [
        (json!({"templateID": "minimal", "timeout": 0}), "Timeout must be greater than 0"),
        (json!({"templateID": "minimal", "timeout": 99_999_999}), "Timeout cannot be greater than 720 hours"),
        (json!({"templateID": "minimal", "network": {"allowOut": ["example.com"]}}), names),
        (json!({"templateID": "minimal", "autoPauseMemory": false}), "autoPauseMemory needs autoPause"),
    ] {
        let answered = refused(body).await;
        assert_eq!((answered.0.as_u16(), answered.1), (400, error(400, message)));
    }
    assert_eq!(
        refused(json!({"templateID": "other/minimal"})).await.1,
        error(404, "template 'other/minimal' not found")
    );
    for (member, value) in [("mcp", json!({})), ("volumeMounts", json!([{"name": "v", "path": "/v"}]))] {
        let (status, body) = refused(json!({"templateID": "minimal", member: value})).await;
        assert_eq!((status.as_u16(), &body["code"]), (501, &json!(501)), "{body}");
    }
    for path in ["/v3/templates", "/volumes", "/secrets"] {
        let (status, body) = server.post(path, json!({})).await;
        assert!(status == 501 && body["message"].as_str().unwrap().contains("does not offer"), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_refusal_says_whether_asking_again_is_of_use() {
    let server = Fixture::start().await;
    let headers = async |path: &str| {
        let body = json!({"templateID": "minimal"}).to_string();
        // Of a length that is not said beforehand.
        let stream = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>(body)]));
        let answered = server.http.post(server.url(path)).body(stream).send().await.unwrap();
        let header = |name: &str| answered.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (answered.status().as_u16(), header("retry-after"), header("should-retry"))
    };
    server.host.update(|state| state.building = vec!["minimal".to_owned()]);
    assert_eq!(headers("/v2/sandboxes").await, (503, Some("1".to_owned()), None));
    server.host.update(|state| state.building.clear());
    server.host.fail("create", ErrorCode::ResourceExhausted, "there is no memory left");
    assert_eq!(headers("/v2/sandboxes").await, (503, None, Some("false".to_owned())));
    assert_eq!(headers("/sandboxes").await, (201, None, None), "a body in chunks is read");
}
