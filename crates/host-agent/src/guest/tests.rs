//! Guests whose agent lies, floods, stalls or sends garbage: the host comes to an end with each, and keeps little of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buffa::Message;
use futures::future::BoxFuture;
use proto::direct::answer::News;
use proto::direct::{Answer, End, end};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;
use tokio_util::either::Either;

use super::direct::PORT as DIRECT_PORT;
use super::*;
use crate::net::{Dial, GuestStream};

/// What a hostile agent does with every connection.
#[derive(Debug, Clone)]
enum Agent {
    /// Accepts, and neither reads nor says anything.
    Stalls,
    /// Hangs up at once.
    HangsUp,
    /// Reads the first word, and says this once.
    Says(Vec<u8>),
    /// Says the first, and then the second so many times.
    Repeats(Vec<u8>, Vec<u8>, usize),
    /// Says it byte by byte, one in ten seconds.
    Drips(Vec<u8>),
}

/// A way to a hostile agent, which counts how much of what it says is taken.
#[derive(Debug, Clone)]
struct Hostile {
    agent: Agent,
    taken: Arc<AtomicUsize>,
}

impl Dial for Hostile {
    fn dial(&self, _port: u16) -> BoxFuture<'_, io::Result<GuestStream>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let Self { agent, taken } = self.clone();
        // What becomes of it is the host's to find out.
        tokio::spawn(async move { drop(agent.act(theirs, &taken).await) });
        Box::pin(async { Ok(Either::Right(ours)) })
    }
}

impl Agent {
    async fn act(self, mut stream: DuplexStream, taken: &AtomicUsize) -> io::Result<()> {
        if matches!(self, Self::HangsUp) {
            return Ok(());
        }
        if !matches!(self, Self::Stalls) {
            stream.read_buf(&mut Vec::with_capacity(64 * 1024)).await?;
        }
        let mut say = async |bytes: &[u8]| {
            stream.write_all(bytes).await?;
            taken.fetch_add(bytes.len(), Ordering::Relaxed);
            io::Result::Ok(())
        };
        match self {
            Self::Stalls | Self::HangsUp => {}
            Self::Says(bytes) => say(&bytes).await?,
            Self::Repeats(first, again, count) => {
                say(&first).await?;
                for _ in 0..count {
                    say(&again).await?;
                }
            }
            Self::Drips(bytes) => {
                for byte in bytes {
                    say(&[byte]).await?;
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            }
        }
        std::future::pending().await
    }
}

fn guest(agent: Agent) -> (Guest, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    (Guest::new(GuestConnector::new(Hostile { agent, taken: taken.clone() })), taken)
}

/// Everything that an agent might answer a request with to harm whoever asked.
fn answers() -> Vec<(&'static str, Agent)> {
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}\r\n\r\n").into_bytes();
    let megabyte = vec![b'x'; 1 << 20];
    vec![
        ("nothing", Agent::Stalls),
        ("an end", Agent::HangsUp),
        ("garbage", Agent::Says((0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect())),
        ("half a head", Agent::Says(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec())),
        ("a head without end", Agent::Repeats(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), megabyte.clone(), 200)),
        ("heads without end", Agent::Repeats(b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(10_000), 200)),
        ("words before the word", Agent::Repeats(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), 2000)),
        ("less than it says", Agent::Says([head("Content-Length: 1000"), b"{}".to_vec()].concat())),
        ("a length that is none", Agent::Says(head("Content-Length: 99999999999999999999"))),
        ("a body of terabytes", Agent::Repeats(head("Content-Length: 9999999999999"), megabyte.clone(), 200)),
        ("a body until the end of time", Agent::Repeats(head("Connection: close"), megabyte.clone(), 200)),
        (
            "a chunk of terabytes",
            Agent::Repeats([head("Transfer-Encoding: chunked"), b"fffffffffff\r\n".to_vec()].concat(), megabyte, 200),
        ),
        ("a chunk size without end", Agent::Repeats(head("Transfer-Encoding: chunked"), b"0".repeat(1 << 20), 200)),
        (
            "a refusal without end",
            Agent::Repeats(
                b"HTTP/1.1 500 No\r\nContent-Length: 999999999\r\n\r\n".to_vec(),
                b"\x1b[2J".repeat(1 << 18),
                200,
            ),
        ),
        ("JSON without end", Agent::Says([head("Content-Length: 60000"), b"[".repeat(60_000)].concat())),
        (
            "a number that is none",
            Agent::Says([head("Content-Length: 20"), br#"{"mem_used":-1e999 }"#.to_vec()].concat()),
        ),
        ("drops", Agent::Drips([head("Content-Length: 1000"), b"{".repeat(1000)].concat())),
        (
            "another protocol",
            Agent::Says(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec()),
        ),
    ]
}

/// The most memory that this process ever had. Each test is a process of its own.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(start_paused = true)]
async fn whatever_an_agent_answers_the_host_is_done_with_it_in_time_and_keeps_little() {
    let answers = answers();
    let before = peak_memory();
    for (what, agent) in answers {
        let (guest, _) = guest(agent);
        let begun = Instant::now();
        assert!(guest.memory_used().await.is_err(), "{what} was taken for an answer");
        assert!(begun.elapsed() <= ANSWER_DEADLINE + Duration::from_secs(6), "{what} took {:?}", begun.elapsed());
        let kept = peak_memory() - before;
        assert!(kept < 24 << 20, "{what}: {kept} bytes were kept at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_does_not_end_is_not_read_for_ever() {
    let answers = answers();
    let before = peak_memory();
    for (what, agent) in answers {
        let (guest, _) = guest(agent);
        let begun = Instant::now();
        let result = guest.read_file("/etc/hostname").await;
        // Those that do end are a file's content, whatever it says.
        let is_whole = ["JSON without end", "a number that is none"].contains(&what);
        assert_eq!(result.is_ok(), is_whole, "{what}: {result:?}");
        assert!(begun.elapsed() <= Duration::from_secs(126), "{what} took {:?}", begun.elapsed());
        // In pieces, and as a whole.
        let kept = peak_memory() - before;
        assert!(kept < 2 * READ_LIMIT + (24 << 20), "{what}: {kept} bytes were kept at once");
    }
}

#[tokio::test(start_paused = true)]
async fn words_of_a_refusal_are_few_and_printable() {
    let body = "\\u001b]0;owned\\u0007".repeat(400);
    let answer = format!("HTTP/1.1 500 No\r\nContent-Length: {}\r\n\r\n{{\"message\":\"{body}\"}}", body.len() + 14);
    let (guest, _) = guest(Agent::Says(answer.into_bytes()));
    let GuestError::Refused { message, .. } = guest.set_clock().await.unwrap_err() else { panic!("it is refused") };
    assert!(message.len() <= 1024 && message.chars().all(|c| !c.is_control()), "{message:?}");
}

fn framed(answer: &Answer) -> Vec<u8> {
    let bytes = answer.encode_to_vec();
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

fn output(bytes: usize) -> Vec<u8> {
    framed(&Answer { news: Some(News::Stdout(vec![b'x'; bytes])), ..Default::default() })
}

fn end(end: end::End) -> Vec<u8> {
    let news = News::End(Box::new(End { end: Some(end), ..Default::default() }));
    framed(&Answer { news: Some(news), ..Default::default() })
}

fn command(timeout: Duration) -> ExecRequest {
    ExecRequest { program: "/bin/true".to_owned(), timeout: Some(timeout), ..ExecRequest::default() }
}

#[tokio::test(start_paused = true)]
async fn a_command_s_answer_that_is_none_ends_the_command() {
    let frame = |length: u32, bytes: &[u8]| [&length.to_be_bytes()[..], bytes].concat();
    for (what, agent) in [
        ("an end", Agent::HangsUp),
        ("a frame of four gigabytes", Agent::Says(frame(u32::MAX, b"x"))),
        ("a frame a byte too long", Agent::Repeats(frame((1 << 20) + 1, b""), vec![0; 1 << 16], 17)),
        ("a frame that is no answer", Agent::Says(frame(4, b"\xff\xff\xff\xff"))),
        ("an answer that says nothing", Agent::Says(frame(0, b""))),
        (
            "an end that is none",
            Agent::Says(framed(&Answer { news: Some(News::End(Box::default())), ..Default::default() })),
        ),
        ("a refusal", Agent::Says(framed(&Answer { error: "\u{1b}[2Jno".repeat(10_000), ..Default::default() }))),
        ("groups in groups", Agent::Says(frame(60_000, &[0x0b; 60_000]))),
    ] {
        let (guest, _) = guest(agent);
        let error = guest.exec(command(Duration::from_secs(1))).await.map(|_| ()).expect_err(what).to_string();
        assert!(error.len() < 1100 && error.chars().all(|c| !c.is_control()), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_command_that_was_not_begun_because_the_guest_stands_still_is_told_from_one_that_was_refused() {
    for is_early in [true, false] {
        let answer = Answer { error: "no".to_owned(), is_early, ..Default::default() };
        let (guest, _) = guest(Agent::Says(framed(&answer)));
        let error = guest.exec(command(Duration::from_secs(1))).await.unwrap_err();
        assert_eq!(matches!(error, ExecError::Early), is_early, "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_ends_with_its_time_however_its_guest_stalls() {
    for (what, agent) in [
        ("nothing", Agent::Stalls),
        ("half a length", Agent::Says(vec![0, 0])),
        ("half a frame", Agent::Says(vec![0, 0, 1, 0, 7])),
        ("drops", Agent::Drips(output(1000))),
    ] {
        let (guest, _) = guest(agent);
        let begun = Instant::now();
        let ended = guest.exec(command(Duration::from_secs(3))).await.unwrap();
        assert!(ended.timed_out && begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_its_guest_does_not_read_is_not_said_for_ever() {
    let (guest, _) = guest(Agent::Stalls);
    for timeout in [None, Some(Duration::from_secs(3))] {
        let long = ExecRequest { arguments: vec!["x".repeat(8 << 20)], timeout, ..command(Duration::ZERO) };
        let begun = Instant::now();
        assert!(matches!(guest.exec(long).await, Err(ExecError::Lost(DirectError::Broken(_)))));
        assert!(begun.elapsed() <= ANSWER_DEADLINE + Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_flood_of_output_no_more_than_the_limit_is_kept() {
    let piece = 1 << 19;
    let (guest, taken) = guest(Agent::Repeats(Vec::new(), output(piece), 100));
    let ended = guest.exec(command(Duration::from_secs(3))).await.unwrap();
    assert!(ended.timed_out, "it never ends");
    assert_eq!((ended.stdout.len(), ended.stdout_omitted), (OUTPUT_LIMIT, (100 * piece - OUTPUT_LIMIT) as u64));
    assert!(taken.load(Ordering::Relaxed) >= 100 * piece, "all of it was read, so that others are not kept waiting");
}

#[tokio::test(start_paused = true)]
async fn ends_that_no_process_has_are_ends_all_the_same() {
    for (said, code) in [
        (end::End::ExitCode(i32::MIN), i32::MIN),
        (end::End::ExitCode(i32::MAX), i32::MAX),
        (end::End::Signal(i32::MAX), i32::MAX),
        (end::End::Signal(-5), 123),
    ] {
        let (guest, _) = guest(Agent::Says(end(said)));
        assert_eq!(guest.exec(command(Duration::from_secs(3))).await.unwrap().exit_code, code);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_after_an_end_is_not_the_next_command_s() {
    let both = [end(end::End::ExitCode(0)), output(3)].concat();
    let (guest, _) = guest(Agent::Says(both));
    for _ in 0..3 {
        let ended = guest.exec(command(Duration::from_secs(3))).await.unwrap();
        assert_eq!((ended.exit_code, ended.stdout.len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lies_about_its_restoration_is_given_up_in_time() {
    let identity = || Identity {
        sandbox_id: "sb1".to_owned(),
        template_id: "minimal".to_owned(),
        hostname: "sb1".to_owned(),
        env_vars: BTreeMap::new(),
        default_user: "root".to_owned(),
        default_workdir: None,
        nameservers: Vec::new(),
        ca_bundle: None,
        timestamp: String::new(),
        boot_id: None,
    };
    let limit = Duration::from_secs(30);
    for (what, agent) in [
        ("nothing", Agent::Stalls),
        ("an end", Agent::HangsUp),
        ("garbage", Agent::Says(vec![0xff; 60_000])),
        ("one answer for all", Agent::Says(vec![0, 0, 0, 0])),
        ("a fault", Agent::Says(framed(&Answer { error: "no".to_owned(), is_fault: true, ..Default::default() }))),
        ("drops", Agent::Drips(vec![0; 100])),
    ] {
        let (guest, _) = guest(agent);
        let begun = Instant::now();
        assert!(guest.restore(identity(), limit).await.is_err(), "{what} was taken for a restoration");
        assert!(begun.elapsed() <= limit + Duration::from_secs(1), "{what}");
    }
    let (guest, _) = guest(Agent::Stalls);
    assert!(guest.wait_until_ready(limit).await.is_err());
    assert!(guest.connector.connect(DIRECT_PORT, limit).await.is_ok());
}
