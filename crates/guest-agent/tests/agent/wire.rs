//! The encoding of the RPCs, as it is on the wire. Section 6 of the contract, statement by statement:
//!
//! | | |
//! |---|---|
//! | frames, the end of a stream and its error, HTTP 200, base64, left-out fields | `a_stream_is_frames_and_a_last_one_that_says_how_it_ended` |
//! | nothing is packed | the same |
//! | codes of unary errors and their statuses | `an_error_has_its_code_and_the_status_of_that` |
//! | numbers, enums, names in both ways, unknown fields | `json_is_read_as_protobuf_says` |
//! | the binary codec | both clients in `processes`, `input`, `terminals`; `filesystem::the_generated_client_is_understood` |
//! | a message that is too long is refused, and its client hears of it | `who_says_too_much_hears_so` |
//! | `StreamInput` ends with its body | `input::a_stream_of_json_ends_with_the_body_as_the_published_clients_end_it` |
//! | `connect-timeout-ms` | `processes`: `the_time_limit_…`, `whoever_joins_…`; `input::a_process_that_does_not_read_…`; `watching` |
//! | `keepalive-ping-interval` | `processes::a_silent_stream_…`, `watching::a_stream_where_nothing_happens_…` |
//! | users and tokens | `processes`, `access` |

use std::io::{Read, Write};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::harness::{Agent, basic, open_directory};

const START: &str = "/process.Process/Start";

fn shell(script: &str) -> Value {
    json!({"process": {"cmd": "/bin/sh", "args": ["-c", script]}, "stdin": false})
}

#[tokio::test]
async fn a_stream_is_frames_and_a_last_one_that_says_how_it_ended() {
    let agent = Agent::open().await;
    let run = async |script: &str| {
        let mut frames = agent.frames(START, &[("accept-encoding", "gzip, zstd")], shell(script)).await;
        assert_eq!(frames.pop(), Some((2, json!({}))), "of what went well");
        let pid = frames[0].1["event"]["start"]["pid"].clone();
        assert!(pid.as_u64().is_some_and(|pid| pid > 1), "{frames:?}");
        assert_eq!(frames.remove(0), (0, json!({"event": {"start": {"pid": pid}}})));
        frames.into_iter().map(|(flags, event)| if flags == 0 { event } else { panic!("{flags}") }).collect::<Vec<_>>()
    };
    let data = |kind: &str, text: &str| json!({"event": {"data": {kind: text}}});
    let well = json!({"event": {"end": {"exited": true, "status": "exit status 0"}}});
    assert_eq!(run("echo hi").await, [data("stdout", "aGkK"), well]);
    let badly = json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!(run("echo hi >&2; exit 3").await, [data("stderr", "aGkK"), json!({"event": {"end": badly}})]);
    let killed = json!({"exitCode": -1, "status": "signal: killed", "error": "signal: killed"});
    assert_eq!(run("kill -KILL $$").await, [json!({"event": {"end": killed}})]);

    // An error is the end of a stream, not a status.
    let fails = async |method: &str, user: &str, body: Value| {
        agent.frames(method, &[("authorization", &basic(user))], body).await
    };
    let error = |code: &str, message: &str| vec![(2, json!({"error": {"code": code, "message": message}}))];
    let nobody = error("unauthenticated", "invalid username: 'nobody-here'");
    assert_eq!(fails(START, "nobody-here", shell("true")).await, nobody);
    let mut lost = shell("true");
    lost["process"]["cwd"] = json!("/no/such");
    assert_eq!(fails(START, "root", lost).await, error("invalid_argument", "cwd '/no/such' does not exist"));
    let gone = error("not_found", "process with pid 999999 not found");
    assert_eq!(fails("/process.Process/Connect", "root", json!({"process": {"pid": 999_999}})).await, gone);
    let gone = error("not_found", "path '/no/such' does not exist");
    assert_eq!(fails("/filesystem.Filesystem/WatchDir", "root", json!({"path": "/no/such"})).await, gone);

    let packs = agent.http.post(agent.url("/filesystem.Filesystem/ListDir")).header("accept-encoding", "gzip, zstd");
    let packs = packs.header("content-type", "application/json").header("content-encoding", "identity");
    let answer = packs.body(r#"{"path":"/etc"}"#).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("content-encoding")), (200, None));
    assert_eq!(answer.headers()["content-type"], "application/json");
    let stream = agent.call_stream(START, &[("accept-encoding", "gzip")], crate::harness::frame(&shell("true"))).await;
    for name in ["content-encoding", "connect-content-encoding"] {
        assert_eq!(stream.headers().get(name), None, "{name}");
    }
}

#[tokio::test]
async fn an_error_has_its_code_and_the_status_of_that() {
    let agent = Agent::open().await;
    let directory = open_directory();
    std::os::unix::fs::symlink("loop", directory.path().join("loop")).unwrap();
    let start = async |more: Value| {
        let mut request = json!({"process": {"cmd": "sleep", "args": ["1000"]}});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = agent.call_stream(START, &[], crate::harness::frame(&request)).await;
        // Its client leaves, and it goes on.
        drop(answer);
    };
    start(json!({"tag": "deaf"})).await;
    start(json!({"tag": "closed", "stdin": false})).await;
    start(json!({"tag": "terminal", "pty": {"size": {"cols": 80, "rows": 24}}})).await;
    let tag = |tag: &str| json!({"tag": tag});
    let (files, processes) = ("/filesystem.Filesystem", "/process.Process");
    for (service, method, user, body, status, code) in [
        (files, "Stat", "root", json!({"path": "~other"}), 400, "invalid_argument"),
        (files, "Stat", "nobody-here", json!({"path": "/"}), 401, "unauthenticated"),
        (files, "MakeDir", "daemon", json!({"path": "/etc/mine"}), 403, "permission_denied"),
        (files, "Stat", "root", json!({"path": "/no/such"}), 404, "not_found"),
        (files, "MakeDir", "root", json!({"path": "/etc"}), 409, "already_exists"),
        (files, "ListDir", "root", json!({"path": directory.path().join("loop")}), 400, "failed_precondition"),
        (files, "GetWatcherEvents", "root", json!({"watcherId": "none"}), 404, "not_found"),
        (
            processes,
            "SendSignal",
            "root",
            json!({"process": tag("deaf"), "signal": "SIGNAL_UNSPECIFIED"}),
            501,
            "unimplemented",
        ),
        (processes, "SendSignal", "root", json!({"signal": "SIGNAL_SIGKILL"}), 501, "unimplemented"),
        (
            processes,
            "SendInput",
            "root",
            json!({"process": tag("closed"), "input": {"stdin": "aGk="}}),
            500,
            "internal",
        ),
        (processes, "SendInput", "root", json!({"process": tag("deaf"), "input": {"pty": "aGk="}}), 500, "internal"),
        (processes, "CloseStdin", "root", json!({"process": tag("terminal")}), 500, "unknown"),
    ] {
        let (given, error) = agent.call(&format!("{service}/{method}"), user, body).await;
        assert_eq!((given, error["code"].as_str()), (status, Some(code)), "{method} {user}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{method}: {error}");
    }
    let flood = json!({"process": tag("deaf"), "input": {"stdin": "A".repeat(1 << 20)}}).to_string();
    let late = agent.http.post(agent.url("/process.Process/SendInput")).header("connect-timeout-ms", "300");
    let answer = late.header("content-type", "application/json").body(flood).send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(answer.text().await.unwrap().starts_with(r#"{"code":"deadline_exceeded","#));
}

#[tokio::test]
async fn json_is_read_as_protobuf_says() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let path = directory.path();
    let call = async |method: &str, body: Value| {
        let (status, answer) = agent.call(&format!("/filesystem.Filesystem/{method}"), "root", body).await;
        assert_eq!(status, 200, "{method}: {answer}");
        answer
    };
    // Names as in the description, unknown ones, and what is null is not there.
    let wish =
        json!({"path": path, "include_entry": true, "allow_network_mounts": true, "recursive": null, "new": [1]});
    let watcher = call("CreateWatcher", wish).await["watcherId"].clone();
    std::fs::write(path.join("f"), "12345").unwrap();
    let told = call("GetWatcherEvents", json!({"watcher_id": watcher})).await;
    let event = &told["events"][0];
    assert_eq!((&event["name"], &event["type"]), (&json!("f"), &json!("EVENT_TYPE_CREATE")), "{told}");
    assert_eq!(event["entry"]["type"], "FILE_TYPE_FILE", "{told}");
    assert_eq!(call("Stat", json!({"path": path.join("f")})).await["entry"]["size"], "5", "as text");
    let listed = call("ListDir", json!({"path": path, "depth": "1"})).await;
    assert_eq!(listed["entries"].as_array().unwrap().len(), 1, "{listed}");

    let request = json!({"process": {"cmd": "cat"}, "tag": "cat"});
    let cat = agent.call_stream(START, &[], crate::harness::frame(&request)).await;
    // Without padding, and with the letters of addresses.
    let input = json!({"process": {"tag": "cat"}, "input": {"stdin": "-_8"}});
    assert_eq!(agent.call("/process.Process/SendInput", "root", input).await, (200, json!({})));
    let signal = json!({"process": {"tag": "cat"}, "signal": 15});
    assert_eq!(agent.call("/process.Process/CloseStdin", "root", json!({"process": {"tag": "cat"}})).await.0, 200);
    let said = cat.bytes().await.unwrap();
    assert!(said.windows(6).any(|bytes| bytes == br#""+/8=""#), "{said:?}");
    let (status, gone) = agent.call("/process.Process/SendSignal", "root", signal).await;
    assert_eq!((status, &gone["message"]), (404, &json!("process with tag cat not found")));
    let (status, list) = agent.call("/process.Process/List", "root", json!({})).await;
    assert_eq!((status, list), (200, json!({})));
}

/// What is answered to `body` once all of it is sent, as clients do it that do not listen meanwhile.
fn answer_to(agent: &Agent, head: &str, body: &[u8]) -> String {
    let mut stream = agent.connect();
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(body).expect("all is taken");
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    // One that says its length ends with its text; a stream with an empty piece.
    while !answer.ends_with(b"}") && !answer.ends_with(b"\r\n0\r\n\r\n") {
        let length = stream.read(&mut piece).expect("an answer");
        assert!(length > 0, "cut off after {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&piece[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_too_much_hears_so() {
    let agent = Agent::open().await;
    // More than all buffers on the way take.
    let flood = vec![b'A'; 48 << 20];
    let post = |method: &str, kind: &str| format!("POST {method} HTTP/1.1\r\nHost: agent\r\nContent-Type: {kind}");
    let length = format!("Content-Length: {}", flood.len());
    let unary = format!("{}\r\n{length}", post("/process.Process/SendInput", "application/json"));
    let answer = answer_to(&agent, &unary, &flood);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains(r#""code":"resource_exhausted""#), "{answer}");

    let frame = [&[0][..], &u32::try_from(flood.len() - 5).unwrap().to_be_bytes(), &flood[5..]].concat();
    for method in [START, "/process.Process/StreamInput"] {
        let stream = format!("{}\r\n{length}", post(method, "application/connect+json"));
        let answer = answer_to(&agent, &stream, &frame);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("resource_exhausted"), "{method}: {answer}");
        // In one piece that does not say how long all of it will be.
        let chunked = format!("{}\r\nTransfer-Encoding: chunked", post(method, "application/connect+json"));
        let chunk = [format!("{:x}\r\n", frame.len()).as_bytes(), &frame, b"\r\n0\r\n\r\n"].concat();
        let answer = answer_to(&agent, &chunked, &chunk);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("resource_exhausted"), "{method}: {answer}");
    }
    // One without a token of a sandbox that has one is told that, and not cut off.
    agent.init(json!({"accessToken": "secret"})).await;
    assert!(answer_to(&agent, &unary, &flood).starts_with("HTTP/1.1 401 "));
}

#[tokio::test]
async fn who_is_refused_at_once_hears_so_before_the_end_of_what_has_none() {
    let agent = Agent::open().await;
    let first = crate::harness::frame(&json!({"start": {"process": {"pid": 999_999}}}));
    let endless =
        futures::stream::once(async move { Ok::<_, std::io::Error>(first) }).chain(futures::stream::pending());
    let request = agent.http.post(agent.url("/process.Process/StreamInput"));
    let request = request.header("content-type", "application/connect+json").timeout(crate::harness::PATIENCE);
    let answer = request.body(reqwest::Body::wrap_stream(endless)).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("process with pid 999999 not found"), "{answer}");
}
