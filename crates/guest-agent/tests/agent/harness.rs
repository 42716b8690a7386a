//! A real agent as an ordinary program on a free port, and the clients to drive it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buffa::Message;
use bytes::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::{CallOptions, ClientConfig, HttpClient};
use proto::direct::{Answer, Word};
use proto::filesystem::FilesystemClient;
use proto::process::process_event::data_event::Output;
use proto::process::process_event::{EndEvent, Event};
use proto::process::process_selector::Selector;
use proto::process::{ProcessClient, ProcessConfig, ProcessSelector, StartRequest, StartResponse};
use proto::session::SessionClient;
use serde_json::json;

/// Longer than anything here takes, so that a hang fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The host's end of its own conversation.
pub struct Direct(TcpStream);

impl Direct {
    /// Says one thing; the answer is what went wrong.
    pub fn say(&mut self, word: Word) -> std::io::Result<String> {
        self.tell(&word.encode_to_vec())?;
        Ok(self.hear()?.error)
    }

    /// Says one thing and does not wait for an answer.
    pub fn tell(&mut self, message: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&u32::try_from(message.len()).unwrap().to_be_bytes())?;
        self.0.write_all(message)
    }

    /// The next answer, or the end of the conversation.
    pub fn hear(&mut self) -> std::io::Result<Answer> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut answer)?;
        Ok(Answer::decode_from_slice(&answer).unwrap())
    }
}

pub struct Agent {
    child: Child,
    address: SocketAddr,
    direct_at: SocketAddr,
    joins_at: SocketAddr,
    pub http: reqwest::Client,
}

impl Agent {
    /// One that takes control from this machine and has been told nothing.
    pub fn fresh() -> Self {
        Self::with_control_peer("127.0.0.1")
    }

    pub fn with_control_peer(peer: &str) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_guest-agent")), peer)
    }

    /// One whose kernel lets it watch with so many instances, which this machine's other programs do not share.
    pub fn with_watches(count: usize) -> Self {
        let script = format!("echo {count} >/proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &script, env!("CARGO_BIN_EXE_guest-agent")]);
        Self::launch(command, "127.0.0.1")
    }

    fn launch(mut command: Command, peer: &str) -> Self {
        let free = "127.0.0.1:0";
        let args = ["--listen", free, "--listen-direct", free, "--listen-local", free, "--control-peer", peer];
        let mut child = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the agent");
        let console = BufReader::new(child.stderr.take().expect("piped"));
        let mut lines = console.lines().map(|line| line.expect("console"));
        let mut address = |words: &str| -> SocketAddr {
            let text = lines.find_map(|line| Some(line.strip_prefix("sandpiper: ")?.strip_prefix(words)?.to_owned()));
            text.expect("the agent listens").parse().expect("address")
        };
        let (direct_at, joins_at, address) = (address("direct at "), address("joins at "), address("listening on "));
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, direct_at, joins_at, http: reqwest::Client::new() }
    }

    /// One that may be used by everybody.
    pub async fn open() -> Self {
        let agent = Self::fresh();
        agent.init(json!({})).await;
        agent
    }

    pub async fn init(&self, body: serde_json::Value) {
        let answer = self.http.post(self.url("/init")).body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{:?}", answer.text().await);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A connection to speak HTTP on by hand.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection for the host's own conversation.
    pub fn direct(&self) -> Direct {
        let stream = TcpStream::connect(self.direct_at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Direct(stream)
    }

    /// Asks to be joined to what listens at `port`. None where the agent does not answer at all.
    pub fn join(&self, port: u16) -> Option<(u8, TcpStream)> {
        let mut stream = TcpStream::connect(self.joins_at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&port.to_be_bytes()).ok()?;
        let mut answer = [0];
        stream.read_exact(&mut answer).ok()?;
        Some((answer[0], stream))
    }

    /// Its own ports.
    pub fn ports(&self) -> [u16; 3] {
        [self.address, self.direct_at, self.joins_at].map(|address| address.port())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Status and body of a plain request.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.http.get(self.url(path)).timeout(PATIENCE).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Uploads as octet-stream.
    pub async fn put(&self, path: &str, content: impl Into<reqwest::Body>) -> (u16, String) {
        let request = self.http.post(self.url(path)).header("content-type", "application/octet-stream");
        let answer = request.body(content).timeout(PATIENCE).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// One unary call with JSON, as the published clients make it.
    pub async fn call(&self, method: &str, user: &str, body: serde_json::Value) -> (u16, serde_json::Value) {
        let request = self.http.post(self.url(method)).header("content-type", "application/json");
        let request = request.header("authorization", basic(user)).header("connect-protocol-version", "1");
        let answer = request.body(body.to_string()).timeout(PATIENCE).send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    /// One call of a stream with JSON, as the published clients make it: the answer, not yet read.
    pub async fn call_stream(&self, method: &str, headers: &[(&str, &str)], body: Vec<u8>) -> reqwest::Response {
        let mut request = self.http.post(self.url(method)).header("content-type", "application/connect+json");
        for (name, value) in [("connect-protocol-version", "1"), ("connect-accept-encoding", "identity")] {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).timeout(PATIENCE).send().await.unwrap()
    }

    /// The same with one message, to the end of its stream: each message with its flags.
    pub async fn frames(
        &self,
        method: &str,
        headers: &[(&str, &str)],
        body: serde_json::Value,
    ) -> Vec<(u8, serde_json::Value)> {
        let answer = self.call_stream(method, headers, frame(&body)).await;
        assert_eq!(answer.status(), 200, "also where the stream ends with an error");
        assert_eq!(answer.headers()["content-type"], "application/connect+json");
        unframe(&answer.bytes().await.unwrap())
    }

    fn config(&self) -> ClientConfig {
        ClientConfig::new(self.url("").parse().unwrap())
    }

    pub fn processes(&self) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn sessions(&self) -> SessionClient<HttpClient> {
        SessionClient::new(HttpClient::plaintext(), self.config())
    }

    pub fn processes_json(&self) -> ProcessClient<HttpClient> {
        ProcessClient::new(HttpClient::plaintext(), self.config().json())
    }

    pub fn files(&self) -> FilesystemClient<HttpClient> {
        FilesystemClient::new(HttpClient::plaintext(), self.config())
    }

    pub async fn start(&self, request: StartRequest, options: CallOptions) -> Result<Running, ConnectError> {
        Running::begin(&self.processes(), request, options).await
    }

    /// Runs a shell script to its end.
    pub async fn sh(&self, script: &str) -> Ended {
        self.run(shell(script), CallOptions::default()).await.unwrap()
    }

    pub async fn run(&self, request: StartRequest, options: CallOptions) -> Result<Ended, ConnectError> {
        let running = self.start(request, options).await?;
        tokio::time::timeout(PATIENCE, running.end()).await.expect("the process ends in time")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its processes are in sessions of their own.
        for pid in all_children(self.child.id()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The children of all threads of a process, zombies included.
pub fn all_children(pid: u32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task");
    let tasks = std::fs::read_dir(path).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

type Body = <HttpClient as connectrpc::client::ClientTransport>::ResponseBody;
type Stream = connectrpc::client::ServerStream<Body, proto::process::StartResponseView<'static>>;

/// A process that has told its number.
pub struct Running {
    pub pid: u32,
    stream: Stream,
}

#[derive(Debug, Default)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub terminal: Vec<u8>,
    pub end: EndEvent,
    pub keepalives: usize,
}

impl Ended {
    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap()
    }

    pub fn terminal(&self) -> &str {
        std::str::from_utf8(&self.terminal).unwrap()
    }
}

impl Running {
    pub async fn begin(
        client: &ProcessClient<HttpClient>,
        request: StartRequest,
        options: CallOptions,
    ) -> Result<Self, ConnectError> {
        let mut stream = client.start_with_options(request, options).await?;
        match next(&mut stream).await? {
            Some(Event::Start(start)) => Ok(Self { pid: start.pid, stream }),
            other => panic!("{other:?} instead of the start"),
        }
    }

    pub async fn next(&mut self) -> Result<Option<Event>, ConnectError> {
        tokio::time::timeout(PATIENCE, next(&mut self.stream)).await.expect("something happens in time")
    }

    /// Reads on until the process has written `text`, and returns all up to there.
    pub async fn said(&mut self, text: &str) -> String {
        let mut said = String::new();
        while !said.contains(text) {
            let event = tokio::time::timeout(PATIENCE, next(&mut self.stream)).await;
            let event = event.unwrap_or_else(|_| panic!("no '{text}' in '{said}'")).unwrap();
            match event.unwrap_or_else(|| panic!("no '{text}' in '{said}'")) {
                Event::Data(data) => match data.output.unwrap() {
                    Output::Stdout(data) | Output::Stderr(data) | Output::Pty(data) => {
                        said.push_str(&String::from_utf8_lossy(&data));
                    }
                },
                Event::Keepalive(_) => {}
                other => panic!("{other:?} instead of '{text}' after '{said}'"),
            }
        }
        said
    }

    pub async fn end(mut self) -> Result<Ended, ConnectError> {
        let mut ended = Ended::default();
        loop {
            let event = tokio::time::timeout(PATIENCE, next(&mut self.stream)).await;
            let event = event.unwrap_or_else(|_| panic!("no end after {ended:?}"))?;
            match event.expect("an end before the end of the stream") {
                Event::Start(_) => panic!("a second start"),
                Event::Keepalive(_) => ended.keepalives += 1,
                Event::Data(data) => match data.output.unwrap() {
                    Output::Stdout(data) => ended.stdout.extend(data),
                    Output::Stderr(data) => ended.stderr.extend(data),
                    Output::Pty(data) => ended.terminal.extend(data),
                },
                Event::End(end) => {
                    ended.end = *end;
                    assert!(self.next().await?.is_none(), "nothing follows the end");
                    return Ok(ended);
                }
            }
        }
    }
}

async fn next(stream: &mut Stream) -> Result<Option<Event>, ConnectError> {
    match stream.message().await? {
        None => Ok(None),
        Some(message) => {
            let message: StartResponse = message.to_owned_message();
            Ok(message.event.into_option().and_then(|event| event.event))
        }
    }
}

pub fn command(cmd: &str, args: &[&str]) -> StartRequest {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let process = ProcessConfig { cmd: cmd.to_owned(), args, ..Default::default() };
    StartRequest { process: process.into(), stdin: Some(false), ..Default::default() }
}

pub fn shell(script: &str) -> StartRequest {
    command("/bin/sh", &["-c", script])
}

pub fn by_pid(pid: u32) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Pid(pid)), ..Default::default() }
}

pub fn by_tag(tag: &str) -> ProcessSelector {
    ProcessSelector { selector: Some(Selector::Tag(tag.into())), ..Default::default() }
}

pub fn as_user(user: &str) -> CallOptions {
    CallOptions::default().with_header("authorization", basic(user))
}

/// A message of a stream: flags, length, JSON.
pub fn frame(message: &serde_json::Value) -> Vec<u8> {
    let message = message.to_string();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message.as_bytes()].concat()
}

/// The messages of a stream, each with its flags.
pub fn unframe(mut stream: &[u8]) -> Vec<(u8, serde_json::Value)> {
    let mut frames = Vec::new();
    while let [flags, a, b, c, d, rest @ ..] = stream {
        let (message, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((*flags, serde_json::from_slice(message).unwrap()));
        stream = after;
    }
    assert!(stream.is_empty(), "whole frames and nothing else: {stream:?}");
    frames
}

pub fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:")))
}

/// Whether a process of that number exists and is not just waiting to be reaped.
pub fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A directory that everybody may enter.
pub fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    directory
}

/// Content that shows when a piece is missing or out of place.
pub fn pattern(size: usize) -> Bytes {
    (0..size).map(|index| (index / 7 + index / 4096) as u8).collect()
}
