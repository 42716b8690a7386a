//! What a process printed and how it ended are there for whoever comes again: after its connection is lost, after a pause and
//! a resume, and after the server was killed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::{Server, wait_for};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::server;

/// What one answer told: output, bytes that are lost, the place after the last byte, and the last line.
#[derive(Debug, Default)]
struct Told {
    output: Vec<u8>,
    lost: u64,
    next: u64,
    last: Value,
}

async fn told(server: &Server, id: &str, process: &str, from: u64, follow: bool) -> Told {
    let url = format!("{}/v1/sandboxes/{id}/processes/{process}/output?from={from}&follow={follow}", server.url());
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut told = Told { next: from, ..Told::default() };
    for line in answer.text().await.unwrap().lines() {
        told.last = serde_json::from_str(line).unwrap();
        match told.last["type"].as_str().unwrap() {
            "stdout" | "stderr" => told.output.extend(STANDARD.decode(told.last["data"].as_str().unwrap()).unwrap()),
            "lost" => told.lost += told.last["bytes"].as_u64().unwrap(),
            _ => {}
        }
        told.next = told.last["next"].as_u64().unwrap_or(told.next);
    }
    told
}

#[tokio::test]
async fn a_process_s_output_goes_on_where_it_was_after_a_pause_and_a_resume() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let script = "for i in 1 2 3; do echo before $i; done; : > /tmp/there; \
        until [ -e /tmp/go ]; do sleep 0.05; done; echo after; exit 7";
    let body = json!({"cmd": "sh", "args": ["-c", script], "background": true, "tag": "job"});
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await.status, 202);
    assert_eq!(server.shell(&id, "until [ -e /tmp/there ]; do sleep 0.05; done").await.0, 0);
    let before = told(&server, &id, "job", 0, false).await;
    assert_eq!((&before.output[..], before.next), (&b"before 1\nbefore 2\nbefore 3\n"[..], 27));

    for change in ["pause", "resume"] {
        let answer = server.call("POST", &format!("/v1/sandboxes/{id}/{change}"), Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(server.shell(&id, ": > /tmp/go").await.0, 0);
    let after = told(&server, &id, "job", before.next, true).await;
    assert_eq!((&after.output[..], after.lost, &after.last["exit_code"]), (&b"after\n"[..], 0, &json!(7)), "{after:?}");
    let again = told(&server, &id, "job", 9, true).await;
    assert_eq!((&again.output[..], &again.last["type"]), (&b"before 2\nbefore 3\nafter\n"[..], &json!("exit")));
}

#[tokio::test]
async fn what_is_lost_is_counted_and_an_end_that_nobody_knows_is_not_a_success() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let body = json!({"cmd": "sh", "args": ["-c", "head -c 3000000 /dev/zero; kill -TERM $$"], "background": true, "tag": "job"});
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await.status, 202);
    // Whoever listened to it while it runs would hold it up instead of losing anything.
    wait_for("the process to end", async || {
        let processes = server.call("GET", &format!("/v1/sandboxes/{id}/processes"), Value::Null).await;
        (processes.status == 200 && !processes.body.to_string().contains("\"job\"")).then_some(())
    })
    .await;
    let told = told(&server, &id, "job", 5, true).await;
    assert_eq!((told.lost, told.output.len(), told.next), (3_000_000 - (1 << 20) - 5, 1 << 20, 3_000_000));
    assert_eq!((&told.last["exit_code"], &told.last["status"]), (&json!(-1), &json!("signal: terminated")));
    let path = format!("/v1/sandboxes/{id}/processes/never-was/output");
    assert_eq!(server.call("GET", &path, Value::Null).await.status, 404);
}

#[tokio::test]
async fn the_command_line_attaches_to_a_process_and_ends_as_it_ended() {
    let server = server(&[]).await;
    let id = server.create(json!({})).await;
    let body = json!({"cmd": "sh", "args": ["-c", "echo out; echo err >&2; exit 9"], "background": true, "tag": "job"});
    assert_eq!(server.call("POST", &format!("/v1/sandboxes/{id}/exec"), body).await.status, 202);
    let attach = async |from: &str| {
        let mut command = tokio::process::Command::new(super::binary());
        command.args(["sandbox", "attach", &id, "job", "--from", from, "--url", server.url()]);
        let output = command.output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(attach("0").await, (9, "out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(attach("4").await, (9, String::new(), "err\n".to_owned()));
}

/// An address that stays while the server behind it gets another one with each start. `{url}` and what says where it is.
async fn relay(server: &Server) -> (String, watch::Sender<String>) {
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let (says, behind) = watch::channel(address(server.url()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = behind.borrow().clone();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    (url, says)
}

#[tokio::test]
async fn a_command_that_is_followed_goes_on_while_the_server_is_killed_and_nothing_of_it_is_lost() {
    let mut server = server(&[]).await;
    let id = server.create(json!({})).await;
    let (url, says) = relay(&server).await;
    let script = "seq 1 1000; : > /tmp/there; until [ -e /tmp/go ]; do sleep 0.05; done; seq 1001 2000; exit 7";
    let mut command = tokio::process::Command::new(super::binary());
    command.args(["sandbox", "exec", &id, "--url", &url, "--", "sh", "-c", script]);
    let followed = tokio::spawn(async move { command.output().await.unwrap() });
    assert_eq!(server.shell(&id, "until [ -e /tmp/there ]; do sleep 0.05; done").await.0, 0);
    server.signal("KILL");
    server.ended().await;
    server.start_again().await;
    says.send(server.url().trim_start_matches("http://").to_owned()).unwrap();
    assert_eq!(server.shell(&id, ": > /tmp/go").await.0, 0);
    let output = followed.await.unwrap();
    let expected: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7));
}
