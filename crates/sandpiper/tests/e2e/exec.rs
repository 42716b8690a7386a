//! Commands that take too long or print too much, in a real guest.

use serde_json::json;
use testkit::{Answer, Server};

use super::server;

/// How many processes of this name run in the guest.
const SLEEPERS: &str = "cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^sleep$'";

async fn exec(server: &Server, id: &str, script: &str, more: serde_json::Value) -> Answer {
    let mut body = json!({ "cmd": "bash", "args": ["-c", script], "timeout_sec": 2 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let script = "echo before; echo oops >&2; sleep 600 & sleep 600; echo after";
    for more in [json!({}), json!({ "cwd": "/tmp" })] {
        let answer = exec(&server, &id, script, more).await;
        assert_eq!((answer.status, answer.body["error"]["code"].as_str()), (504, Some("timeout")), "{answer:?}");
        let message = answer.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("within 2 seconds") && answer.body["request_id"].is_string(), "{answer:?}");
        let partial = json!({ "stdout": "before\n", "stderr": "oops\n", "encoding": "utf-8" });
        assert_eq!(answer.body["partial"], partial);
        assert_eq!(server.shell(&id, SLEEPERS).await, (1, "0\n".to_owned()), "none is left");
    }
    let binary = exec(&server, &id, "printf '\\377'; sleep 600", json!({})).await;
    assert_eq!(binary.body["partial"], json!({ "stdout": "/w==", "stderr": "", "encoding": "base64" }));
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted_also_when_the_time_is_over() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    const LIMIT: u64 = 16 << 20;
    let script = format!("head -c {} /dev/zero | tr '\\0' x", LIMIT + 1000);
    for (script, status) in [(script.clone(), 200), (script + "; sleep 600", 504)] {
        let answer = exec(&server, &id, &script, json!({ "timeout_sec": 20 })).await;
        assert_eq!(answer.status, status, "{:?}", answer.body["error"]);
        let output = if status == 200 { &answer.body } else { &answer.body["partial"] };
        assert_eq!(output["stdout"].as_str().unwrap().len() as u64, LIMIT);
        assert_eq!(output["stdout_omitted"], 1000);
    }
}
