//! Calls to a guest agent.

use std::time::Duration;

use serde_json::json;

use super::{id, sandbox};
use crate::fixture::Fixture;

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
