//! Processes on terminals, as clients use them.

use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use proto::process::process_event::Event;
use proto::process::process_event::data_event::Output;
use proto::process::process_input::Input;
use proto::process::pty::Size;
use proto::process::{
    CloseStdinRequest, ConnectRequest, ConnectResponse, PTY, ProcessInput, SendInputRequest, SendSignalRequest, Signal,
    StartRequest, UpdateRequest,
};
use serde_json::json;

use crate::harness::{Agent, Running, as_user, by_pid, by_tag, command, is_alive, open_directory, shell, until};

fn size(cols: u32, rows: u32) -> PTY {
    PTY { size: Size { cols, rows, ..Default::default() }.into(), ..Default::default() }
}

fn on_terminal(mut request: StartRequest, pty: PTY) -> StartRequest {
    request.pty = pty.into();
    request.stdin = None;
    request
}

fn keys(pid: u32, keys: &str) -> SendInputRequest {
    let input = ProcessInput { input: Some(Input::Pty(keys.into())), ..Default::default() };
    SendInputRequest { process: by_pid(pid).into(), input: input.into(), ..Default::default() }
}

#[tokio::test]
async fn a_shell_on_a_terminal_is_typed_to_resized_and_left() {
    let agent = Agent::open().await;
    for client in [agent.processes(), agent.processes_json()] {
        let mut request = on_terminal(command("/bin/sh", &["-i"]), size(91, 33));
        request.process.modify(|process| drop(process.envs.insert("PS1".into(), "what now? ".into())));
        let mut running = Running::begin(&client, request, CallOptions::default()).await.unwrap();
        let pid = running.pid;
        let send = async |text| client.send_input(keys(pid, text)).await.unwrap();
        send("stty size; tty; echo $TERM\n").await;
        let said = running.said("xterm-256color\r\n").await;
        assert!(said.contains("33 91\r\n") && said.contains("/dev/pts/"), "{said:?}");
        client
            .update(UpdateRequest { process: by_pid(pid).into(), pty: size(120, 50).into(), ..Default::default() })
            .await
            .unwrap();
        send("stty size\n").await;
        running.said("50 120\r\n").await;
        // What the line is edited to is what the program gets, and a key interrupts it.
        send("cat; echo not-this\n").await;
        send("ab\u{7f}c\n").await;
        running.said("ac\r\n").await;
        send("\u{3}").await;
        running.said("what now? ").await;
        send("exit 3\n").await;
        let ended = running.end().await.unwrap();
        assert_eq!((ended.end.exit_code, ended.end.exited), (3, true), "{:?}", ended.terminal());
        assert!(ended.stdout.is_empty() && ended.stderr.is_empty());
        assert!(!ended.terminal().contains("\nnot-this"), "{:?}", ended.terminal());
    }
}

#[tokio::test]
async fn all_that_a_terminal_showed_comes_before_the_end_in_chunks_of_16_kib() {
    let agent = Agent::open().await;
    let request = on_terminal(shell("stty -opost; seq 1 100000; printf 'the end' >&2; exit 7"), PTY::default());
    let mut running = agent.start(request, CallOptions::default()).await.unwrap();
    let (mut text, mut largest) = (Vec::new(), 0);
    let end = loop {
        match running.next().await.unwrap().expect("an end") {
            Event::Data(data) => {
                let Some(Output::Pty(data)) = data.output else { panic!("{data:?}") };
                largest = largest.max(data.len());
                text.extend(data);
            }
            Event::End(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    let expect: String = (1..=100_000).map(|number| format!("{number}\n")).collect::<String>() + "the end";
    assert!(text == expect.as_bytes(), "{} bytes instead of {}", text.len(), expect.len());
    assert_eq!(end.exit_code, 7);
    assert!((1..=16 * 1024).contains(&largest), "{largest}");
}

#[tokio::test]
async fn a_terminal_belongs_to_its_user_and_controls_the_session() {
    let agent = Agent::open().await;
    let script = "stty size; stat -c %U $(tty); echo by-name > $(tty); echo by-tty > /dev/tty; \
                  ps -o sid= -p $$ | tr -d ' '; echo $$; stty -a | grep -o '[-]*iutf8'";
    let ended = agent.run(on_terminal(shell(script), PTY::default()), as_user("daemon")).await.unwrap();
    let lines: Vec<&str> = ended.terminal().lines().collect();
    assert_eq!(lines[..4], ["24 80", "daemon", "by-name", "by-tty"], "{lines:?}");
    assert_eq!(lines[4], lines[5], "the leader of its session");
    assert_eq!(lines[6], "iutf8");
}

#[tokio::test]
async fn a_terminal_outlives_its_client_and_is_joined_again() {
    let agent = Agent::open().await;
    let mut request = on_terminal(command("/bin/sh", &["-i"]), size(80, 24));
    request.tag = Some("pty-1".into());
    let mut first = agent.start(request, CallOptions::default()).await.unwrap();
    let pid = first.pid;
    let client = agent.processes();
    client.send_input(keys(pid, "trap 'echo hung up' HUP; echo be''fore\n")).await.unwrap();
    first.said("before\r\n").await;
    drop(first);

    let connect = ConnectRequest { process: by_tag("pty-1").into(), ..Default::default() };
    let mut again = client.connect(connect).await.unwrap();
    let mut text = String::new();
    client.send_input(keys(pid, "echo af''ter; exit 4\n")).await.unwrap();
    let mut code = None;
    while let Some(message) = again.message().await.unwrap() {
        let message: ConnectResponse = message.to_owned_message();
        match message.event.into_option().and_then(|event| event.event).unwrap() {
            Event::Start(start) => assert_eq!(start.pid, pid),
            Event::Data(data) => match data.output.unwrap() {
                Output::Pty(data) => text.push_str(&String::from_utf8_lossy(&data)),
                other => panic!("{other:?}"),
            },
            Event::End(end) => code = Some(end.exit_code),
            Event::Keepalive(_) => {}
        }
    }
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("after\r\n") && !text.contains("before") && !text.contains("hung up"), "{text:?}");
}

#[tokio::test]
async fn the_end_of_the_leader_hangs_up_what_is_in_the_foreground() {
    let agent = Agent::open().await;
    for by_limit in [false, true] {
        let directory = open_directory();
        let file = directory.path().join("pid");
        // An interactive shell gives the job a process group of its own, which a signal to the shell's does not reach.
        let options = CallOptions::default();
        let options = if by_limit { options.with_timeout(Duration::from_secs(3)) } else { options };
        let running = agent.start(on_terminal(command("/bin/sh", &["-i"]), PTY::default()), options).await.unwrap();
        let client = agent.processes();
        let job = format!("sh -c 'echo $$ > {}; exec sleep 1000'\n", file.display());
        client.send_input(keys(running.pid, &job)).await.unwrap();
        until("the job runs", || std::fs::read_to_string(&file).is_ok_and(|pid| pid.ends_with('\n'))).await;
        let job = std::fs::read_to_string(&file).unwrap();
        assert!(is_alive(&job));
        if !by_limit {
            let (process, signal) = (by_pid(running.pid).into(), Signal::SIGNAL_SIGKILL.into());
            client.send_signal(SendSignalRequest { process, signal, ..Default::default() }).await.unwrap();
        }
        match (running.end().await, by_limit) {
            (Ok(ended), false) => assert_eq!(ended.end.status, "signal: killed"),
            (Err(error), true) => assert_eq!(error.code, ErrorCode::DeadlineExceeded),
            (other, _) => panic!("{other:?}"),
        }
        until("the job is gone too", || !is_alive(&job)).await;
    }
}

#[tokio::test]
async fn a_terminal_that_nobody_reads_holds_up_nobody_else() {
    let agent = Agent::open().await;
    let flood = agent.start(on_terminal(command("yes", &[]), PTY::default()), CallOptions::default()).await.unwrap();
    let request = on_terminal(shell("read line; echo got $line"), PTY::default());
    let other = agent.start(request, CallOptions::default()).await.unwrap();
    agent.processes().send_input(keys(other.pid, "this\n")).await.unwrap();
    assert!(other.end().await.unwrap().terminal().contains("got this\r\n"));
    assert_eq!(agent.sh("echo pipes").await.stdout(), "pipes\n");
    drop(flood);
}

#[tokio::test]
async fn what_is_not_a_terminal_s_is_refused() {
    let agent = Agent::open().await;
    let client = agent.processes();
    let terminal = on_terminal(command("sleep", &["1000"]), PTY::default());
    let terminal = agent.start(terminal, CallOptions::default()).await.unwrap();
    let pipes = agent.start(command("sleep", &["1000"]), CallOptions::default()).await.unwrap();
    let update = |pid, pty: PTY| UpdateRequest { process: by_pid(pid).into(), pty: pty.into(), ..Default::default() };

    let input = ProcessInput { input: Some(Input::Stdin("x".into())), ..Default::default() };
    let stdin = SendInputRequest { process: by_pid(terminal.pid).into(), input: input.into(), ..Default::default() };
    assert_eq!(client.send_input(stdin).await.unwrap_err().code, ErrorCode::Internal);
    let close = CloseStdinRequest { process: by_pid(terminal.pid).into(), ..Default::default() };
    assert_eq!(client.close_stdin(close).await.unwrap_err().code, ErrorCode::Unknown);
    assert_eq!(client.update(update(pipes.pid, size(1, 1))).await.unwrap_err().code, ErrorCode::Internal);
    let error = client.update(update(terminal.pid, size(70_000, 1))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(client.update(update(999_999, size(1, 1))).await.unwrap_err().code, ErrorCode::NotFound);
    let nothing = UpdateRequest { process: by_pid(pipes.pid).into(), ..Default::default() };
    client.update(nothing).await.expect("nothing to change is fine");

    let body = json!({ "process": { "pid": terminal.pid }, "pty": { "size": { "cols": 10, "rows": 5 } } });
    let (status, answer) = agent.call("/process.Process/Update", "root", body).await;
    assert_eq!((status, answer), (200, json!({})));
}
