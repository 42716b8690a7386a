//! What sandboxes may reach: asked for at their creation, looked at, replaced, and passed on to children.

use std::collections::BTreeMap;

use connectrpc::ErrorCode;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, code};

const LIMITED: &str =
    r#"{"allow_internet_access":false,"allow_out":["198.51.100.0/24","*.example.com"],"deny_out":[]}"#;

fn limited() -> Value {
    serde_json::from_str(LIMITED).unwrap()
}

async fn create(server: &Fixture, network: Value) -> String {
    let (status, sandbox) = server.post("/v1/sandboxes", json!({ "network": network })).await;
    assert_eq!(status, 201, "{sandbox}");
    sandbox["id"].as_str().unwrap().to_owned()
}

async fn network(server: &Fixture, id: &str) -> Value {
    let (status, network) = server.get(&format!("/v1/sandboxes/{id}/network")).await;
    assert_eq!(status, 200, "{network}");
    network
}

async fn put(server: &Fixture, id: &str, policy: Value) -> (u16, Value) {
    let (status, body) = server.send(Method::PUT, &format!("/v1/sandboxes/{id}/network"), Some(policy)).await;
    (status.as_u16(), body)
}

#[tokio::test]
async fn a_policy_is_asked_for_replaced_and_passed_on() {
    let server = Fixture::start().await;
    let open = network(&server, &server.create().await).await;
    assert_eq!((&open["allow_internet_access"], &open["policy_changes"]), (&json!(true), &json!(0)));
    assert_eq!(open["denials"]["fenced"], 3, "what the host counted");

    let id = create(&server, limited()).await;
    let shown = network(&server, &id).await;
    for (member, value) in limited().as_object().unwrap() {
        assert_eq!(shown[member], *value, "{member}");
    }
    assert_eq!(shown.get("dns_servers"), None, "the host's");
    let (status, changed) =
        put(&server, &id, json!({"deny_out": ["198.51.100.7"], "dns_servers": ["1.1.1.1", "9.9.9.9"]})).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!((&changed["allow_internet_access"], &changed["allow_out"]), (&json!(true), &json!([])));
    assert_eq!((&changed["deny_out"], &changed["policy_changes"]), (&json!(["198.51.100.7"]), &json!(1)));

    let (status, children) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!(status, 201, "{children}");
    let child = network(&server, children[0]["id"].as_str().unwrap()).await;
    assert_eq!(child["deny_out"], json!(["198.51.100.7"]), "a child has the policy that its parent has by then");
    assert_eq!(child["dns_servers"], json!(["1.1.1.1", "9.9.9.9"]));
    let (_, none) = put(&server, &id, json!({"dns_servers": []})).await;
    assert_eq!(none["dns_servers"], json!([]), "none at all");
    let (_, cleared) = put(&server, &id, json!({})).await;
    assert_eq!(cleared.get("dns_servers"), None);
}

#[tokio::test]
async fn what_is_no_policy_is_refused_and_changes_nothing() {
    let server = Fixture::start().await;
    let id = server.create().await;
    for (wrong, word) in [
        (json!({"allow_out": ["example.com"]}), "0.0.0.0/0"),
        (json!({"deny_out": ["example.com"]}), "deny_out"),
        (json!({"allow_out": ["::1"]}), "IPv6"),
        (json!({"allow_out": ["1.2.3.4/40"]}), "allow_out"),
        (json!({"deny_out": vec!["1.1.1.1"; 201]}), "200"),
        (json!({"dns_servers": ["dns.example.com"]}), "dns_servers"),
        (json!({"egress_proxy": {"address": "proxy.example.com"}}), "HOST:PORT"),
        (json!({"egress_proxy": {"address": "10.0.0.1:1080"}}), "private"),
        (json!({"egress_proxy": {"address": "a.b:1080", "password": "x"}}), "needs a username"),
        (json!({"egress_proxy": {"address": "a.b:1080", "username": "", "password": "x"}}), "username"),
        (json!({"egress_proxy": {"address": "a.b:1080", "username": "u", "password": "x".repeat(256)}}), "password"),
        (json!({"egress_proxy": {"address": "a.b:1080", "tls": {"ca_cert": "-----BEGIN CERTIFICATE-----"}}}), "PEM"),
        (json!({"egress_proxy": {"address": "a.b:1080", "tls": {"server_name": "a b"}}}), "server_name"),
        (json!({"request_headers": {"10.0.0.1": {"X": "y"}}}), "no domain"),
        (json!({"request_headers": {"a.b": {"Host": "c.d"}}}), "no name"),
        (json!({"request_headers": {"a.b": {"X": "y\r\nZ: z"}}}), "printable ASCII"),
        (json!({"request_headers": {"a.b": {"X": "y", "x": "y"}}}), "twice"),
        (json!({"dns_servers": ["1.1.1.1/32"]}), "dns_servers"),
        (json!({"dns_servers": vec!["1.1.1.1"; 11]}), "10"),
    ] {
        let (status, body) = put(&server, &id, wrong.clone()).await;
        assert_eq!((status, code(&body)), (400, "invalid_request"), "{wrong}");
        assert!(body["error"]["message"].as_str().unwrap().contains(word), "{body}");
        let (status, _) = server.post("/v1/sandboxes", json!({ "network": wrong })).await;
        assert_eq!(status, 400);
    }
    assert_eq!(server.host.calls("set-network"), 0);
    assert_eq!(server.host.calls("create"), 1);
}

#[tokio::test]
async fn a_policy_that_the_host_does_not_take_is_not_recorded() {
    let server = Fixture::start().await;
    let id = create(&server, limited()).await;
    server.host.fail("set-network", ErrorCode::Internal, "no");
    assert_eq!(put(&server, &id, json!({})).await.0, 502);
    let (_, children) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    let child = network(&server, children[0]["id"].as_str().unwrap()).await;
    assert_eq!(child["allow_internet_access"], false);
    server.delete(&id).await;
    assert_eq!(put(&server, &id, json!({})).await.0, 409);
    assert_eq!(put(&server, "sb00000000000000000000", json!({})).await.0, 404);
}

#[tokio::test]
async fn what_the_jail_of_this_host_lacks_is_told() {
    let server = Fixture::start().await;
    let (_, health) = server.get("/health").await;
    assert_eq!(health["lacking_jail_layers"], json!(["landlock"]));
    assert_eq!(health["security_boundary"], "jail", "without hardware virtualisation");
}

#[tokio::test]
async fn the_password_of_a_proxy_goes_to_the_host_and_is_told_to_nobody() {
    let server = Fixture::start().await;
    let proxy = json!({"address": "proxy.example.com:1080", "username": "u", "password": "open sesame", "tls": {}});
    let id = create(&server, json!({"egress_proxy": proxy})).await;
    let password = |id: &str| {
        let networks = &server.host.state().networks;
        networks[id].0.egress_proxy.as_option().map(|proxy| proxy.password.clone())
    };
    assert_eq!(password(&id).as_deref(), Some("open sesame"));
    let shown = network(&server, &id).await;
    assert_eq!(shown["egress_proxy"], json!({"address": "proxy.example.com:1080", "username": "u", "tls": {}}));
    let (status, children) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!(status, 201, "{children}");
    let child = children[0]["id"].as_str().unwrap();
    assert_eq!(password(child).as_deref(), Some("open sesame"), "a child goes the same way");
    let (_, changed) = put(&server, &id, json!({"egress_proxy": {"address": "203.0.113.9:1080"}})).await;
    assert_eq!(changed["egress_proxy"], json!({"address": "203.0.113.9:1080"}));
    assert_eq!(password(&id).as_deref(), Some(""));
    let (_, cleared) = put(&server, &id, json!({})).await;
    assert_eq!((cleared.get("egress_proxy"), password(&id)), (None, None));
}

#[tokio::test]
async fn the_headers_of_requests_go_to_the_host_and_their_values_are_told_to_nobody() {
    let server = Fixture::start().await;
    let headers = json!({"API.example.com": {"Authorization": "Bearer open sesame", "X-Empty": ""}, "a.b": {}});
    let id = create(&server, json!({"request_headers": headers})).await;
    let sent = |id: &str| {
        let headers = server.host.state().networks[id].0.request_headers.clone();
        headers.into_iter().map(|host| (host.domain, host.headers.into_iter().collect::<BTreeMap<_, _>>())).collect()
    };
    let expected = BTreeMap::from(
        [("authorization", "Bearer open sesame"), ("x-empty", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let expected = vec![("api.example.com".to_owned(), expected)];
    let all: Vec<_> = sent(&id);
    assert_eq!(all, expected);
    let shown = network(&server, &id).await;
    assert_eq!(shown["request_headers"], json!({"api.example.com": ["authorization", "x-empty"]}));
    let (_, children) = server.post(&format!("/v1/sandboxes/{id}/fork"), json!({})).await;
    let all: Vec<_> = sent(children[0]["id"].as_str().unwrap());
    assert_eq!(all, expected, "a child's requests get them too");
    let (_, cleared) = put(&server, &id, json!({})).await;
    let all: Vec<_> = sent(&id);
    assert!(all.is_empty() && cleared.get("request_headers").is_none(), "{cleared}");
}
