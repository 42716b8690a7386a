//! What a guest says is in a directory, on its way to a caller.
#![no_main]

use fuzz::server;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|listing: &[u8]| {
    let answer = server().call("POST", "/v1/sandboxes/{id}/files/list", br#"{"path":"/"}"#, listing);
    assert!(matches!(answer.status, 200 | 400..500 | 502..), "{}: {}", answer.status, answer.text);
    serde_json::from_str::<serde_json::Value>(&answer.text).expect("whatever a guest says, a caller gets JSON");
});
