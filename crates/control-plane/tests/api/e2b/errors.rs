//! Refusals: their statuses, words and headers.

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use super::{UNKNOWN, error, id, in_chunks, sandbox};
use crate::fixture::{Fixture, answer};

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

#[tokio::test]
async fn what_can_be_no_sandboxs_id_is_refused_as_that() {
    let server = Fixture::start().await;
    let invalid = error(400, "Invalid sandbox ID");
    for path in ["SB1", "a.b", "-client", "%C3%BC", "sb_1/logs", "A/metrics"] {
        let (status, body) = server.get(&format!("/sandboxes/{path}")).await;
        assert_eq!((status.as_u16(), &body), (400, &invalid), "{path}");
    }
    for what in ["pause", "connect", "resume", "timeout", "refreshes", "fork", "snapshots"] {
        let (status, body) = server.post(&format!("/sandboxes/a_b/{what}"), json!({})).await;
        assert_eq!((status.as_u16(), &body), (400, &invalid), "{what}");
    }
    assert_eq!(server.get("/sandboxes/metrics?sandbox_ids=ok,N-o").await.1, invalid);
    let gone = error(404, &format!("Sandbox \"{UNKNOWN}\" doesn't exist or you don't have access to it"));
    assert_eq!(server.get(&format!("/sandboxes/{UNKNOWN}-client")).await.1, gone);
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_form_of_the_surface() {
    let server = Fixture::start().await;
    for (method, path, status) in [
        (Method::GET, "/sandboxes/sb1/nothing", 404),
        (Method::GET, "/v2/nothing", 404),
        (Method::PATCH, "/sandboxes", 405),
        (Method::GET, "/templates/tags", 405),
    ] {
        let (answered, body) = server.send(method, path, None).await;
        assert_eq!((answered.as_u16(), &body["code"]), (status, &json!(status)), "{path} {body}");
        assert!(body["message"].is_string(), "{path} {body}");
    }
    assert_eq!(server.get("/nothing").await.1, "404 page not found\n", "elsewhere nothing has changed");
}

#[tokio::test]
async fn a_key_comes_in_either_header_and_without_one_there_is_an_error_with_a_code() {
    let server = Fixture::start().await;
    let keys = control_plane::Keys::open(&server.config.store).await.unwrap();
    let (_, key) = keys.create("application", None).await.unwrap();
    assert!(key.starts_with("e2b_") && key.len() == 44 && key[4..].bytes().all(|byte| byte.is_ascii_hexdigit()));
    let list = async |name: &str, value: &str| {
        let call = server.http.get(server.url("/v2/sandboxes")).header(name, value);
        let (status, body) = answer(call.send().await.unwrap()).await;
        (status.as_u16(), body)
    };
    for (name, value) in [("x-api-key", key.clone()), ("authorization", format!("Bearer {key}"))] {
        assert_eq!(list(name, &value).await, (200, json!([])), "{name}");
    }
    let (status, body) = list("x-api-key", &format!("e2b_{}", "0".repeat(40))).await;
    assert_eq!((status, &body["code"]), (401, &json!(401)), "{body}");
    assert!(body["message"].as_str().unwrap().contains("API key"), "{body}");
}

#[tokio::test]
async fn bodies_come_in_chunks_and_those_that_may_be_absent_are() {
    let server = Fixture::start().await;
    let call = async |method: Method, path: &str, body: Option<Value>| {
        let mut call = server.http.request(method, server.url(path));
        if let Some(body) = body {
            call = call.body(in_chunks(&body));
        }
        answer(call.send().await.unwrap()).await
    };
    let made = sandbox(&server, json!({})).await;
    let path = |what: &str| format!("/sandboxes/{}/{what}", id(&made));
    for (method, what, body, status) in [
        (Method::POST, "timeout", json!({"timeout": 100}), 204),
        (Method::POST, "refreshes", json!({"duration": 20}), 204),
        (Method::PUT, "network", json!({}), 204),
        (Method::POST, "snapshots", json!({}), 201),
        (Method::POST, "fork", json!({}), 201),
        (Method::POST, "pause", json!({}), 204),
        (Method::POST, "connect", json!({}), 201),
        (Method::POST, "pause", json!({}), 204),
        (Method::POST, "resume", json!({}), 201),
    ] {
        let (answered, body) = call(method.clone(), &path(what), Some(body)).await;
        assert_eq!(answered, status, "{what}: {body}");
        // Where a state does not allow a second time, that is what is said.
        let again = call(method, &path(what), None).await.0;
        let expect = match what {
            "timeout" => 400,
            "pause" | "resume" => 409,
            "connect" => 200,
            _ => status,
        };
        assert_eq!(again, expect, "{what} without a body");
    }
    assert_eq!(call(Method::DELETE, &format!("/sandboxes/{}", id(&made)), Some(json!({}))).await.0, 204);
}
