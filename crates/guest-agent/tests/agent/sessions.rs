//! What processes wrote, asked for again.

use connectrpc::ErrorCode;
use connectrpc::client::CallOptions;
use proto::session::data::Output;
use proto::session::output_request::Process;
use proto::session::output_response::Event;
use proto::session::{End, OutputRequest, OutputResponse};

use crate::harness::{Agent, open_directory, shell, until};

const RING: u64 = 1 << 20;

#[derive(Debug, Default, PartialEq)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The place after the last byte.
    next: u64,
    lost: u64,
    end: Option<End>,
}

fn of(pid: u32, from: u64) -> OutputRequest {
    OutputRequest { process: Some(Process::Pid(pid)), from, ..Default::default() }
}

async fn hear(agent: &Agent, request: OutputRequest) -> Heard {
    let mut heard = Heard { next: request.from, ..Heard::default() };
    let mut stream = agent.sessions().output(request).await.unwrap();
    while let Some(message) = stream.message().await.unwrap() {
        let message: OutputResponse = message.to_owned_message();
        match message.event.unwrap() {
            Event::Start(_) | Event::Keepalive(_) => {}
            Event::Data(data) => {
                assert_eq!(data.offset, heard.next, "without a gap");
                let bytes = match data.output.unwrap() {
                    Output::Stdout(bytes) | Output::Pty(bytes) => {
                        heard.stdout.extend(&bytes);
                        bytes
                    }
                    Output::Stderr(bytes) => {
                        heard.stderr.extend(&bytes);
                        bytes
                    }
                };
                heard.next += bytes.len() as u64;
            }
            Event::Lost(lost) => {
                heard.lost += lost.bytes;
                heard.next += lost.bytes;
            }
            Event::End(end) => heard.end = Some(*end),
        }
    }
    heard
}

#[tokio::test]
async fn output_is_heard_again_from_any_place_and_the_end_after_it() {
    let agent = Agent::open().await;
    let running =
        agent.start(shell("echo one; sleep 0.1; echo two >&2; exit 3"), CallOptions::default()).await.unwrap();
    let pid = running.pid;
    // Its first client leaves at once.
    drop(running);
    let all = hear(&agent, of(pid, 0)).await;
    assert_eq!((&all.stdout[..], &all.stderr[..], all.next, all.lost), (&b"one\n"[..], &b"two\n"[..], 8, 0));
    let end = all.end.unwrap();
    assert_eq!((end.exit_code, end.status.as_str(), end.timed_out), (3, "exit status 3", false));
    let some = hear(&agent, of(pid, 6)).await;
    assert_eq!((&some.stdout[..], &some.stderr[..]), (&b""[..], &b"o\n"[..]));
    assert_eq!(some.end.unwrap().exit_code, 3, "told as often as one asks");
}

#[tokio::test]
async fn what_nobody_heard_and_is_not_kept_is_counted_exactly() {
    let agent = Agent::open().await;
    let running = agent.start(shell("exec head -c 3000000 /dev/zero"), CallOptions::default()).await.unwrap();
    let pid = running.pid;
    drop(running);
    until("it came to its end", || !crate::harness::is_alive(&pid.to_string())).await;
    let late = hear(&agent, of(pid, 1000)).await;
    assert_eq!((late.lost, late.stdout.len() as u64, late.next), (3_000_000 - RING - 1000, RING, 3_000_000));
    assert_eq!(late.end.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_signal_and_a_time_that_is_over_are_no_exit_codes() {
    let agent = Agent::open().await;
    let limited = CallOptions::default().with_timeout(std::time::Duration::from_millis(300));
    for (script, options, timed_out) in
        [("kill -TERM $$", CallOptions::default(), false), ("exec sleep 1000", limited, true)]
    {
        let running = agent.start(shell(script), options).await.unwrap();
        let end = hear(&agent, of(running.pid, 0)).await.end.unwrap();
        let status = if timed_out { "signal: killed" } else { "signal: terminated" };
        assert_eq!((end.exit_code, end.status.as_str(), end.timed_out), (-1, status, timed_out));
    }
}

#[tokio::test]
async fn what_is_there_can_be_had_without_following() {
    let agent = Agent::open().await;
    let directory = open_directory();
    let wrote = directory.path().join("wrote");
    let mut request = shell(&format!("echo there; : > {}; exec sleep 1000", wrote.display()));
    request.tag = Some("mine".to_owned());
    let mut running = agent.start(request, CallOptions::default()).await.unwrap();
    running.said("there").await;
    let request =
        OutputRequest { process: Some(Process::Tag("mine".into())), only_what_is_there: true, ..Default::default() };
    let now = hear(&agent, request).await;
    assert_eq!((&now.stdout[..], now.end), (&b"there\n"[..], None));
    for request in [of(999_999, 0), OutputRequest::default()] {
        let code = match agent.sessions().output(request).await {
            Err(error) => error.code,
            Ok(mut stream) => stream.message().await.unwrap_err().code,
        };
        assert!(matches!(code, ErrorCode::NotFound | ErrorCode::InvalidArgument), "{code:?}");
    }
}
