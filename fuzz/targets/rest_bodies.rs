//! Bodies of requests, for every route that takes one: the first byte says which.
#![no_main]

use fuzz::server;
use libfuzzer_sys::fuzz_target;

const ROUTES: [(&str, &str); 22] = [
    ("POST", "/v1/sandboxes"),
    ("POST", "/v1/sandboxes/{id}/exec"),
    ("POST", "/v1/sandboxes/{id}/files/read"),
    ("POST", "/v1/sandboxes/{id}/files/write"),
    ("POST", "/v1/sandboxes/{id}/files/list"),
    ("POST", "/v1/sandboxes/{id}/files/mkdir"),
    ("POST", "/v1/sandboxes/{id}/files/remove"),
    ("POST", "/v1/sandboxes/{id}/snapshots"),
    ("POST", "/v1/sandboxes/{id}/fork"),
    ("PUT", "/v1/sandboxes/{id}/network"),
    ("POST", "/v1/capsules"),
    ("POST", "/v1/capsules/{id}/exec"),
    ("POST", "/v1/snapshots"),
    ("POST", "/v1/prune"),
    ("POST", "/sandboxes"),
    ("POST", "/sandboxes/{other}/timeout"),
    ("POST", "/sandboxes/{other}/connect"),
    ("POST", "/sandboxes/{other}/refreshes"),
    ("POST", "/sandboxes/{id}/snapshots"),
    ("PUT", "/sandboxes/{id}/network"),
    ("POST", "/sandboxes/{id}/fork"),
    ("POST", "/v2/templates"),
];

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    let (method, path) = ROUTES[usize::from(*first) % ROUTES.len()];
    let answer = server().call(method, path, body, b"");
    assert_ne!(answer.status, 500, "{method} {path}: {}", answer.text);
    if answer.status >= 400 {
        let error: serde_json::Value = serde_json::from_str(&answer.text).expect("an error is JSON");
        let message = if path.starts_with("/v1/") { &error["error"]["message"] } else { &error["message"] };
        assert!(message.as_str().is_some_and(|message| !message.is_empty()), "{method} {path}: {error}");
    }
});
