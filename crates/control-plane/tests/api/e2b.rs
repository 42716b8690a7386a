//! The surface for clients of E2B: statuses, bodies, headers and words that those clients depend on.

use std::time::Duration;

use connectrpc::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, answer};

const UNKNOWN: &str = "sb00000000000000000000";

async fn sandbox(server: &Fixture, more: Value) -> Value {
    let mut body = json!({"templateID": "minimal"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let (status, sandbox) = server.post("/v2/sandboxes", body).await;
    assert_eq!(status, 201, "{sandbox}");
    sandbox
}

fn id(sandbox: &Value) -> &str {
    sandbox["sandboxID"].as_str().unwrap()
}

fn error(status: u16, message: &str) -> Value {
    json!({"code": status, "message": message})
}

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
    for path in ["/v3/templates", "/volumes", "/secrets", "/templates/tags"] {
        let (status, body) = server.post(path, json!({})).await;
        assert!(status == 501 && body["message"].as_str().unwrap().contains("does not offer"), "{path}: {body}");
    }
}

#[tokio::test]
async fn pauses_and_resumes_have_the_statuses_that_clients_branch_on() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let id = id(&made);
    let call = async |what: &str, body: Value| server.post(&format!("/sandboxes/{id}/{what}"), body).await;
    let connect = async || server.post(&format!("/v2/sandboxes/{id}/connect"), json!({"timeout": 100})).await;
    let (status, same) = connect().await;
    assert_eq!((status.as_u16(), &same["envdAccessToken"]), (200, &made["envdAccessToken"]));
    assert_eq!(call("pause", json!({})).await.0, 204);
    let paused = format!("Error pausing sandbox - sandbox '{id}' is already paused");
    assert_eq!(call("pause", json!({})).await.1, error(409, &paused));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 409);
    let fork = format!("Sandbox '{id}' is paused and cannot be forked; resume it first");
    assert_eq!(call("fork", json!({})).await.1, error(409, &fork));
    assert_eq!(server.get(&format!("/sandboxes/{id}")).await.1["state"], "paused");
    let (status, woken) = connect().await;
    assert_eq!((status.as_u16(), &woken["envdAccessToken"]), (201, &made["envdAccessToken"]));
    assert_eq!(call("timeout", json!({"timeout": 10})).await.0, 204);
    assert_eq!(call("refreshes", json!({})).await.0, 204);
    assert_eq!(call("resume", json!({})).await.0, 409, "it runs");
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 204);
    assert_eq!(server.send(Method::DELETE, &format!("/sandboxes/{id}"), None).await.0, 404);
}

#[tokio::test]
async fn a_sandbox_ends_when_its_time_is_over_and_not_before() {
    let server = Fixture::start().await;
    let (kept, ended) = (sandbox(&server, json!({})).await, sandbox(&server, json!({})).await);
    let paused = sandbox(&server, json!({"autoPause": true})).await;
    for over in [&ended, &paused] {
        let path = format!("/sandboxes/{}/timeout", id(over));
        assert_eq!(server.post(&path, json!({"timeout": -1})).await.0, 204);
    }
    server.until_status(id(&ended), "stopped").await;
    server.until_status(id(&paused), "paused").await;
    assert_eq!(server.status(id(&kept)).await, "running");
    // Woken by another surface it has some time again.
    let (status, _) = server.post(&format!("/v1/sandboxes/{}/resume", id(&paused)), json!({})).await;
    assert_eq!(status, 200);
    server.post(&format!("/sandboxes/{}/timeout", id(&kept)), json!({"timeout": 0})).await;
    server.until_status(id(&kept), "stopped").await;
    assert_eq!(server.status(id(&paused)).await, "running");
}

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
async fn what_happened_to_a_sandbox_is_its_log() {
    let server = Fixture::start().await;
    let made = sandbox(&server, json!({})).await;
    let (status, logs) = server.get(&format!("/v2/sandboxes/{}/logs", id(&made))).await;
    assert_eq!(status, 200);
    let messages: Vec<_> = logs["logs"].as_array().unwrap().iter().map(|entry| &entry["message"]).collect();
    assert!(messages.iter().any(|message| message.as_str().unwrap().contains("create")), "{messages:?}");
    let (_, old) = server.get(&format!("/sandboxes/{}/logs", id(&made))).await;
    assert_eq!(old["logEntries"].as_array().unwrap().len(), messages.len());
}

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
async fn a_guest_agent_has_more_time_for_what_takes_long() {
    let server = Fixture::with(|config| config.guest_patience.agent = Duration::from_millis(300)).await;
    let made = sandbox(&server, json!({})).await;
    let call = async |method: &str, kind: &str, body: Vec<u8>| {
        let call = server.http.post(server.url(method)).header("content-type", kind).body(body);
        let call = call.header("e2b-sandbox-id", id(&made)).header("e2b-sandbox-port", "49983");
        let answer = call.header("x-access-token", made["envdAccessToken"].as_str().unwrap()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (_never, gate) = (server.host.hold("start"), server.host.hold("remove"));
    let remove = call("/filesystem.Filesystem/Remove", "application/json", br#"{"path":"/huge"}"#.to_vec());
    let start = async {
        server.host.until(|state| state.calls.iter().any(|call| call == "remove /huge")).await;
        let message = br#"{"process":{"cmd":"echo"}}"#;
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0][..], &length, message].concat();
        let answer = call("/process.Process/Start", "application/connect+json", body).await;
        gate.add_permits(1);
        answer
    };
    let (removed, (status, started)) = tokio::join!(remove, start);
    assert!(status == 504 && started.contains("gave no answer in time"), "{status} {started}");
    assert_eq!(removed, (200, "{}".to_owned()));
}

#[tokio::test]
async fn a_network_is_told_as_it_was_asked_for_without_its_secrets() {
    let server = Fixture::start().await;
    let proxy = json!({"address": "Proxy.example.com:1080", "username": "u", "password": "open sesame",
                       "tls": {"enabled": true, "serverName": "other.example.com"}});
    let wanted = json!({"dnsServers": ["1.1.1.1"], "egressProxy": proxy});
    let (status, made) = server.post("/v2/sandboxes", json!({"templateID": "minimal", "network": wanted})).await;
    assert_eq!(status, 201, "{made}");
    let path = format!("/sandboxes/{}", id(&made));
    let told = async || server.get(&path).await.1["network"].clone();
    let network = told().await;
    assert_eq!(network["dnsServers"], json!(["1.1.1.1"]));
    let shown = json!({"address": "proxy.example.com:1080", "username": "u",
                       "tls": {"enabled": true, "serverName": "other.example.com"}});
    assert_eq!(network["egressProxy"], shown);
    let put = async |network: Value| server.send(Method::PUT, &format!("{path}/network"), Some(network)).await;
    let plain = json!({"address": "203.0.113.9:1080", "tls": {"enabled": false}});
    assert_eq!(put(json!({"egressProxy": plain})).await.0, 204);
    let network = told().await;
    assert_eq!((&network["egressProxy"], network.get("dnsServers")), (&json!({"address": "203.0.113.9:1080"}), None));
    for wrong in [
        json!({"dnsServers": ["dns.example.com"]}),
        json!({"egressProxy": {"address": "proxy.example.com"}}),
        json!({"egressProxy": {"address": "192.168.0.1:1080"}}),
        json!({"egressProxy": {"address": "a.b:1", "password": "x"}}),
        json!({"egressProxy": {"address": "a.b:1", "tls": {"enabled": false, "serverName": "a.b"}}}),
        json!({"egressProxy": {"address": "a.b:1", "tls": {"enabled": true, "caCert": "none"}}}),
    ] {
        let (status, refused) = put(wrong.clone()).await;
        assert_eq!((status.as_u16(), &refused["code"]), (400, &json!(400)), "{wrong}: {refused}");
    }
    assert_eq!(put(json!({"egressProxy": null, "dnsServers": []})).await.0, 204);
    let network = told().await;
    assert_eq!((network.get("egressProxy"), &network["dnsServers"]), (None, &json!([])));
    let (status, refused) = put(json!({"rules": {"a.b": [{"transform": {"headers": {"X": "y"}}}]}})).await;
    assert!(status == 501 && refused["message"].as_str().unwrap().contains("does not offer"), "{refused}");
}
