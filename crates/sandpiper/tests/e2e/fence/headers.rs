//! Headers that a guest's requests get on their way: whose, wherever they go, and nobody else's.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::Server;

use super::super::server;
use super::{
    Program, World, allow, inspect_egress, is_inside, live_through_much, mount_file, mount_resolv_conf, network,
};

/// Says how it was asked, and what for.
const ECHO: &str = include_str!("echo.py");

/// Asks, inside a guest.
const ASK: &str = include_str!("ask.py");

/// What requests to `good.test` get.
fn headers(value: &str) -> Value {
    json!({ "good.test": { "X-Key": value } })
}

/// What comes of requests.
async fn ask<const N: usize>(server: &Server, id: &str, wanted: [&str; N]) -> [String; N] {
    let wanted: Vec<_> = wanted.iter().map(|one| format!("'{one}'")).collect();
    let (_, said) = server.shell(id, &format!("python3 -c '{ASK}' {}", wanted.join(" "))).await;
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines.try_into().unwrap_or_else(|lines| panic!("{lines:?} of {wanted:?}"))
}

/// Two servers, `good.test` and `other.test`, whose certificates the machine believes and no guest does.
async fn servers(world: &World) -> (Program, tempfile::NamedTempFile, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut believed = String::new();
    let shown = ["good.test", "other.test"].map(|name| {
        let certified = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        believed += &certified.cert.pem();
        let path: PathBuf = directory.path().join(name);
        fs::write(&path, format!("{}{}", certified.cert.pem(), certified.signing_key.serialize_pem())).unwrap();
        path
    });
    let believed = mount_file(&believed, "/etc/ssl/certs/ca-certificates.crt");
    (world.start_program(ECHO, &shown, &["echoing"]).await, believed, directory)
}

#[tokio::test]
async fn requests_to_a_host_get_its_headers_and_nobody_else_does() {
    if !is_inside("fence::headers::requests_to_a_host_get_its_headers_and_nobody_else_does") {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start_with(&["names alone"]).await;
    let _servers = servers(&world).await;
    let mut server = server(&["--templates", "base"]).await;
    let id = server.create(json!({ "template": "base", "network": { "request_headers": headers("canary") } })).await;

    let said = ask(&server, &id, ["https good.test", "http good.test", "https other.test!", "http other.test"]).await;
    let expected = [
        "https 203.0.113.2 good.test canary",
        "http 203.0.113.2 good.test canary",
        "https 203.0.113.3 other.test mine",
        "http 203.0.113.3 other.test mine",
    ];
    assert_eq!(said, expected);
    for client in [
        "curl -sS https://good.test/ 2>&1",
        "node --no-warnings -e 'fetch(`https://good.test/`).then(a => a.text()).then(console.log)' 2>&1",
    ] {
        let (_, said) = server.shell(&id, client).await;
        assert_eq!(said.trim(), "https 203.0.113.2 good.test canary", "{client}");
    }
    // Whoever is elsewhere hears nothing, whatever a guest says of him.
    let [plain, secured] = ask(&server, &id, ["http good.test@203.0.113.3", "https good.test@203.0.113.3"]).await;
    assert_eq!(plain, "http 203.0.113.2 good.test canary", "it goes where the name leads");
    assert!(secured.contains("good.test cannot be spoken with") && secured.contains("certificate"), "{secured}");
    assert!(!world.hits().contains("203.0.113.3 good.test"), "{}", world.hits());
    let other = ask(&server, &id, ["https other.test"]).await;
    assert_eq!(other, ["not believed"], "nobody vouches for others");
    inspect_egress(&server, &id);
    let shown = network(&server, &id).await;
    assert_eq!(shown["request_headers"], json!({ "good.test": ["x-key"] }), "and no value");

    // What is said holds after all that may happen to a sandbox, and for its children.
    let child = live_through_much(&mut server, &id).await;
    for one in [&id, &child] {
        assert_eq!(ask(&server, one, ["https good.test"]).await, ["https 203.0.113.2 good.test canary"]);
    }
    allow(&server, &child, json!({})).await;
    let said = ask(&server, &child, ["https good.test", "https good.test!"]).await;
    assert_eq!(said, ["not believed", "https 203.0.113.2 good.test mine"], "what is not said is the default");

    // What it reaches is another matter.
    let denied = json!({ "deny_out": ["203.0.113.2"], "request_headers": headers("canary") });
    allow(&server, &id, denied).await;
    let said = ask(&server, &id, ["https good.test", "http good.test@203.0.113.3", "http other.test"]).await;
    assert_eq!(said, ["no", "no", "http 203.0.113.3 other.test mine"]);
    let none = json!({ "allow_internet_access": false, "request_headers": headers("canary") });
    allow(&server, &id, none).await;
    assert_eq!(ask(&server, &id, ["http good.test@203.0.113.2"]).await, ["no"]);
    let by_address =
        json!({ "allow_internet_access": false, "allow_out": ["203.0.113.2"], "request_headers": headers("third") });
    allow(&server, &id, by_address).await;
    let said = ask(&server, &id, ["http good.test@203.0.113.2", "https good.test@203.0.113.2"]).await;
    assert_eq!(said, ["http 203.0.113.2 good.test third", "https 203.0.113.2 good.test third"]);
}

#[tokio::test]
async fn a_running_guest_is_told_whom_to_believe_and_what_it_asks_by_allowed_names_gets_headers_too() {
    if !is_inside(
        "fence::headers::a_running_guest_is_told_whom_to_believe_and_what_it_asks_by_allowed_names_gets_headers_too",
    ) {
        return;
    }
    let _resolv = mount_resolv_conf();
    let world = World::start_with(&["names alone"]).await;
    let _servers = servers(&world).await;
    let server = server(&["--templates", "python311"]).await;
    let id = server.create(json!({ "template": "python311" })).await;
    assert_eq!(ask(&server, &id, ["https good.test", "http good.test"]).await[1], "http 203.0.113.2 good.test mine");
    let named = |value: &str| json!({ "allow_internet_access": false, "allow_out": ["good.test"], "request_headers": headers(value) });
    let (code, _) = server.shell(&id, "hostname mine && echo \"127.0.0.1 mine\" >> /etc/hosts").await;
    assert_eq!(code, 0);
    for value in ["first", "second"] {
        allow(&server, &id, named(value)).await;
        let said = ask(&server, &id, ["https good.test", "http good.test", "http other.test@203.0.113.2"]).await;
        let expected = ["https", "http"].map(|scheme| format!("{scheme} 203.0.113.2 good.test {value}"));
        assert_eq!((&said[..2], said[2].as_str()), (&expected[..], "no"));
    }

    let (_, name) = server.shell(&id, "hostname").await;
    assert_eq!(name.trim(), "mine", "what its user has changed stays");

    // Also through the proxy of its owner, which does not see more than it did.
    let certified = rcgen::generate_simple_self_signed(vec!["proxy.test".to_owned()]).unwrap();
    let _proxy = world.start_proxy(&format!("{}{}", certified.cert.pem(), certified.signing_key.serialize_pem())).await;
    let proxy = json!({ "address": "203.0.113.2:1080", "username": "somebody", "password": "correct horse" });
    for policy in [json!({ "request_headers": headers("by-proxy") }), named("by-proxy")] {
        let mut policy = policy;
        policy["egress_proxy"] = proxy.clone();
        allow(&server, &id, policy).await;
        assert_eq!(ask(&server, &id, ["http good.test"]).await, ["by proxy with by-proxy"]);
    }
}
