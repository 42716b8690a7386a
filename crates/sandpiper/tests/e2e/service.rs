//! How the server ends, and what it logs.

use serde_json::{Value, json};
use testkit::{Inventory, wait_for};

use super::server;

#[tokio::test]
async fn a_command_under_way_finishes_before_the_server_ends() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    let url = format!("{}/v1/sandboxes/{id}/exec", server.url());
    let body = json!({ "cmd": "sh", "args": ["-c", "touch /tmp/begun; sleep 3; echo done"] });
    let exec = tokio::spawn(reqwest::Client::new().post(url).json(&body).send());
    wait_for("the command to begin", async || (server.shell(&id, "test -e /tmp/begun").await.0 == 0).then_some(()))
        .await;
    server.signal("TERM");
    wait_for("new requests to be refused", async || {
        let answer = server.call("GET", "/health", Value::Null).await;
        (answer.status == 503 && answer.body["error"]["code"] == "stopping").then_some(())
    })
    .await;
    let answer: Value = exec.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["stdout"], "done\n", "{answer}");
    assert!(server.ended().await.success(), "{}", server.log());
    assert_eq!(server.inventory().beyond(&Inventory::default()), Vec::<String>::new());
}

#[tokio::test]
async fn a_log_in_json_is_json_from_its_first_line_to_its_last() {
    let mut server = server(&["--log-format", "json"]).await;
    let request = reqwest::Client::new().get(format!("{}/health", server.url())).header("x-request-id", "probe-1");
    assert_eq!(request.send().await.unwrap().status(), 200);
    server.signal("TERM");
    server.ended().await;
    let log = server.log();
    let lines: Vec<Value> = log.lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line}\n{log}"))).collect();
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let of_request: Vec<_> = lines.iter().filter(|line| line["span"]["request_id"] == "probe-1").collect();
    assert_eq!(of_request.len(), 1, "{log}");
    assert_eq!((&of_request[0]["message"], &of_request[0]["route"]), (&json!("request"), &json!("/health")));
    let said = |words: &str| lines.iter().any(|line| line["message"].as_str().unwrap().contains(words));
    assert!(said("is ready at http://") && said("stopping"), "{log}");
}
