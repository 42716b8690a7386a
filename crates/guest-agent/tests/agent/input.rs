//! What processes read, as clients send it.

use std::time::Duration;

use connectrpc::client::CallOptions;
use connectrpc::{ConnectError, ErrorCode};
use futures::stream;
use proto::process::process_input::Input;
use proto::process::stream_input_request::{DataEvent, Event, KeepAlive, StartEvent};
use proto::process::{
    CloseStdinRequest, ProcessInput, ProcessSelector, SendInputRequest, StartRequest, StreamInputRequest,
};
use serde_json::json;

use crate::harness::{Agent, PATIENCE, Running, by_pid, by_tag, command, frame, pattern, shell};

/// With standard input open, as is usual when nothing is said of it.
fn reading(mut request: StartRequest) -> StartRequest {
    request.stdin = None;
    request
}

fn stdin(data: impl Into<Vec<u8>>) -> ProcessInput {
    ProcessInput { input: Some(Input::Stdin(data.into())), ..Default::default() }
}

fn keys(data: impl Into<Vec<u8>>) -> ProcessInput {
    ProcessInput { input: Some(Input::Pty(data.into())), ..Default::default() }
}

fn send(process: ProcessSelector, input: ProcessInput) -> SendInputRequest {
    SendInputRequest { process: process.into(), input: input.into(), ..Default::default() }
}

fn close(process: ProcessSelector) -> CloseStdinRequest {
    CloseStdinRequest { process: process.into(), ..Default::default() }
}

fn event(event: impl Into<Event>) -> StreamInputRequest {
    StreamInputRequest { event: Some(event.into()), ..Default::default() }
}

fn begin(process: ProcessSelector) -> StreamInputRequest {
    event(StartEvent { process: process.into(), ..Default::default() })
}

fn data(input: ProcessInput) -> StreamInputRequest {
    event(DataEvent { input: input.into(), ..Default::default() })
}

#[tokio::test]
async fn input_arrives_in_order_and_its_end_as_end_of_file() {
    let agent = Agent::open().await;
    for client in [agent.processes(), agent.processes_json()] {
        let request = reading(command("cat", &[]));
        let running = Running::begin(&client, request, CallOptions::default()).await.unwrap();
        let process = by_pid(running.pid);
        client.send_input(send(process.clone(), stdin("one "))).await.unwrap();
        client.send_input(send(process.clone(), stdin("two\n"))).await.unwrap();
        client.close_stdin(close(process.clone())).await.unwrap();
        // Twice is fine, and writing is not.
        let again = client.close_stdin(close(process.clone())).await;
        assert!(again.is_ok() || again.is_err_and(|error| error.code == ErrorCode::NotFound), "it may have ended");
        let ended = running.end().await.unwrap();
        assert_eq!((ended.stdout(), ended.end.exit_code), ("one two\n", 0));
    }
}

#[tokio::test]
async fn a_stream_carries_more_than_a_process_takes_at_once() {
    let agent = Agent::open().await;
    let content = pattern(3_000_000);
    let mut request = reading(shell("sleep 0.3; sha256sum; cat"));
    request.tag = Some("sum".into());
    let running = agent.start(request, CallOptions::default()).await.unwrap();
    let client = agent.processes();
    let mut messages = vec![begin(by_tag("sum"))];
    for piece in content.chunks(100_000) {
        messages.push(data(stdin(piece)));
        messages.push(event(KeepAlive::default()));
    }
    client.stream_input(stream::iter(messages)).await.unwrap();
    // The end of the stream is not the end of the input.
    client.send_input(send(by_tag("sum"), stdin("tail"))).await.unwrap();
    client.close_stdin(close(by_tag("sum"))).await.unwrap();
    let ended = running.end().await.unwrap();
    let expect = {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = sum.stdin.take().unwrap();
        input.write_all(&content).unwrap();
        input.write_all(b"tail").unwrap();
        drop(input);
        String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(ended.stdout(), expect);
}

#[tokio::test]
async fn a_process_that_does_not_read_holds_up_only_those_who_write_to_it() {
    let agent = Agent::open().await;
    let deaf = agent.start(reading(command("sleep", &["1000"])), CallOptions::default()).await.unwrap();
    let reader = agent.start(reading(command("head", &["-n1"])), CallOptions::default()).await.unwrap();
    let client = agent.processes();
    let timeout = CallOptions::default().with_timeout(Duration::from_millis(300));
    let flood = send(by_pid(deaf.pid), stdin(vec![b'x'; 1_000_000]));
    let error = client.send_input_with_options(flood.clone(), timeout).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);

    let stuck = tokio::spawn({
        let client = agent.processes();
        async move { client.send_input(flood).await.map(drop) }
    });
    client.send_input(send(by_pid(reader.pid), stdin("hello\n"))).await.unwrap();
    assert_eq!(reader.end().await.unwrap().stdout(), "hello\n");
    // Closing gets by and ends the wait.
    client.close_stdin(close(by_pid(deaf.pid))).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, stuck).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    client.close_stdin(close(by_pid(deaf.pid))).await.expect("a second time is fine");
    let error = client.send_input(send(by_pid(deaf.pid), stdin("x"))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal, "{error}");
}

#[tokio::test]
async fn input_of_the_wrong_kind_or_to_nobody_is_refused() {
    let agent = Agent::open().await;
    let client = agent.processes();
    let code = |result: Result<(), ConnectError>| result.unwrap_err().code;
    let mut silent = command("sleep", &["1000"]);
    silent.tag = Some("silent".into());
    let silent = agent.start(silent, CallOptions::default()).await.unwrap();
    let ended = agent.start(reading(command("true", &[])), CallOptions::default()).await.unwrap();
    let gone = ended.pid;
    ended.end().await.unwrap();

    let send = async |process, input| client.send_input(send(process, input)).await.map(drop);
    assert_eq!(code(send(by_pid(silent.pid), stdin("x")).await), ErrorCode::Internal, "started without input");
    assert_eq!(code(send(by_pid(silent.pid), keys("x")).await), ErrorCode::Internal, "no terminal");
    assert_eq!(code(send(by_tag("silent"), ProcessInput::default()).await), ErrorCode::Unimplemented);
    assert_eq!(code(send(by_pid(gone), stdin("x")).await), ErrorCode::NotFound);
    assert_eq!(code(send(by_tag("other"), stdin("x")).await), ErrorCode::NotFound);
    assert_eq!(code(send(ProcessSelector::default(), stdin("x")).await), ErrorCode::Unimplemented);
    client.close_stdin(close(by_tag("silent"))).await.expect("what was never open can be closed");

    let send_all =
        async |messages: Vec<StreamInputRequest>| client.stream_input(stream::iter(messages)).await.map(drop);
    assert_eq!(code(send_all(vec![data(stdin("x"))]).await), ErrorCode::InvalidArgument, "data without a start");
    assert_eq!(code(send_all(vec![begin(by_pid(gone))]).await), ErrorCode::NotFound);
    assert_eq!(code(send_all(vec![StreamInputRequest::default()]).await), ErrorCode::Unimplemented);
    assert_eq!(code(send_all(vec![begin(by_tag("silent")), data(keys("x"))]).await), ErrorCode::Internal);
}

#[tokio::test]
async fn a_stream_of_json_ends_with_the_body_as_the_published_clients_end_it() {
    let agent = Agent::open().await;
    let running = agent.start(reading(command("head", &["-n1"])), CallOptions::default()).await.unwrap();
    let mut body = frame(&json!({ "start": { "process": { "pid": running.pid } } }));
    body.extend(frame(&json!({ "keepalive": {} })));
    body.extend(frame(&json!({ "data": { "input": { "stdin": "aGkK" } } })));
    let answer = agent.call_stream("/process.Process/StreamInput", &[], body).await;
    assert_eq!(answer.status(), 200);
    let answer = answer.bytes().await.unwrap();
    assert_eq!(&answer[..7], b"\0\0\0\0\x02{}", "the empty answer, then the end of the stream: {answer:?}");
    assert_eq!(answer[7], 2);
    assert_eq!(running.end().await.unwrap().stdout(), "hi\n");

    let (status, answer) = agent
        .call("/process.Process/SendInput", "root", json!({ "process": { "pid": 999_999 }, "input": { "stdin": "" } }))
        .await;
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")), "{answer}");
}
