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
}

#[tokio::test]
async fn rules_give_headers_to_requests_and_are_told_without_the_values() {
    let server = Fixture::start().await;
    let rule = |headers: Value| json!([{"transform": {"headers": headers}}]);
    let rules =
        json!({"api.example.com": rule(json!({"Authorization": "Bearer open sesame"})), "a.b": [], "c.d": [{}]});
    let made = sandbox(&server, json!({"network": {"rules": rules}})).await;
    let told = async || detail(&server, id(&made)).await["network"].clone();
    let shown = json!({"api.example.com": rule(json!({"authorization": "***"}))});
    assert_eq!(told().await["rules"], shown);
    let sent = |name: &str| {
        let networks = &server.host.state().networks;
        networks[id(&made)].0.request_headers.iter().find_map(|host| host.headers.get(name).cloned())
    };
    assert_eq!(sent("authorization").as_deref(), Some("Bearer open sesame"));
    let put =
        async |body: Value| server.send(Method::PUT, &format!("/sandboxes/{}/network", id(&made)), Some(body)).await;
    let two = json!([{"transform": {"headers": {"X": "y"}}}, {"transform": {"headers": {"Z": "y"}}}]);
    let many: serde_json::Map<_, _> = (0..11).map(|index| (format!("x{index}.com"), rule(json!({"X": "y"})))).collect();
    let names: serde_json::Map<_, _> = (0..21).map(|index| (format!("x{index}"), json!("y"))).collect();
    for (wrong, word) in [
        (json!({"a.b": two}), "one transform"),
        (many.into(), "10 domains"),
        (json!({"a.b": rule(names.into())}), "20 headers"),
        (json!({"a.b": rule(json!({"x".repeat(65): "y"}))}), "64"),
        (json!({"a.b": rule(json!({"X": "y".repeat(2049)}))}), "2048"),
        (json!({format!("{}com", "a.".repeat(63)): rule(json!({"X": "y"}))}), "128"),
        (json!({"10.0.0.0/8": rule(json!({"X": "y"}))}), "no domain"),
    ] {
        let (status, refused) = put(json!({"rules": wrong})).await;
        assert_eq!(status, 400, "{refused}");
        assert!(refused["message"].as_str().unwrap().contains(word), "{word}: {refused}");
    }
    for kept_elsewhere in ["${e2b.secrets.key}", "Bearer ${e2b.identity.tokens.aws}"] {
        let (status, refused) = put(json!({"rules": {"a.b": rule(json!({"X": kept_elsewhere}))}})).await;
        assert!(status == 501 && refused["message"].as_str().unwrap().contains("does not offer"), "{refused}");
    }
    assert_eq!(told().await["rules"], shown, "what is refused changes nothing");
    assert_eq!(put(json!({})).await.0, 204);
    assert_eq!((told().await.get("rules"), sent("authorization")), (None, None));
}
