//! A process in a guest, followed live over the guest stream. One that was started for its follower dies with it: dropping
//! it before its end kills it. One that was joined lives on.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, ClientConfig, ServerStream, ServiceTransport};
use hyper::body::Incoming;
use model::SandboxId;
use proto::process as pb;
use proto::process::__buffa::oneof;
use proto::session;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::{HostAgent, HostError, RunLimit, StreamClient};
use crate::metrics::{ExecEnd, FollowedExec};

/// A guest's messages are its output in chunks of some KiB.
const MAX_MESSAGE: usize = 1 << 20;

/// How long a signal may take to be delivered, and a process to say that it has started.
const SIGNAL: Duration = Duration::from_secs(10);

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to its environment.
    pub envs: HashMap<String, String>,
    /// Its directory; the user's home where there is none.
    pub cwd: Option<String>,
    /// Whom it runs as; the template's default user where there is none.
    pub user: Option<String>,
    /// How long it may run.
    pub limit: RunLimit,
    /// A name by which it can be found again.
    pub tag: Option<String>,
    /// The terminal that it runs in, if any.
    pub terminal: Option<TerminalSize>,
}

/// How much a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub cols: u32,
    /// Lines.
    pub rows: u32,
}

/// By what a process is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Its id in the guest.
    Pid(u32),
    /// The name that it was given.
    Tag(String),
}

/// What happens to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs.
    Started {
        /// Its id in the guest.
        pid: u32,
    },
    /// It printed to its standard output.
    Stdout(Bytes),
    /// It printed to its standard error.
    Stderr(Bytes),
    /// So many bytes that it printed and that were asked for are not kept any more.
    Lost(u64),
    /// It ended; nothing follows.
    Exited {
        /// Its exit code, -1 when a signal ended it.
        code: i32,
        /// How the guest words its end, such as `signal: killed`.
        status: String,
    },
}

/// What a process that there is has printed, from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// From this place, and then what it prints to its end.
    Follow(u64),
    /// From this place to what there is now.
    WhatIsThere(u64),
}

pub(super) type Client = pb::ProcessClient<ServiceTransport<StreamClient>>;

enum Events {
    Started(ServerStream<Incoming, pb::__buffa::view::StartResponseView<'static>>),
    Joined(ServerStream<Incoming, pb::__buffa::view::ConnectResponseView<'static>>),
    Replayed(ServerStream<Incoming, session::OutputResponseView<'static>>),
}

/// A process that was started and is being followed.
pub struct GuestProcess {
    /// None once it has ended, or somebody else looks after its end.
    running: Option<Running>,
    fate: Fate,
    /// How much it had printed after the last event, where that is known.
    place: Option<u64>,
}

/// What becomes of a process that nobody follows any more.
enum Fate {
    /// It is killed, by a task that is counted here.
    Dies(TaskTracker),
    LivesOn,
}

struct Running {
    client: Client,
    events: Events,
    pid: Option<u32>,
    /// Counts its end.
    counted: Option<FollowedExec>,
}

impl HostAgent {
    /// Starts a process in a sandbox. It dies with its follower.
    pub async fn start(
        &self,
        id: &SandboxId,
        spec: ProcessSpec,
        tasks: &TaskTracker,
    ) -> Result<GuestProcess, HostError> {
        self.start_with(id, spec, Fate::Dies(tasks.clone())).await
    }

    /// Starts a process in a sandbox that needs no follower.
    pub async fn start_detached(&self, id: &SandboxId, spec: ProcessSpec) -> Result<GuestProcess, HostError> {
        self.start_with(id, spec, Fate::LivesOn).await
    }

    /// Follows a process that is there, from now on.
    pub async fn join(&self, id: &SandboxId, selector: Selector) -> Result<GuestProcess, HostError> {
        let client = self.processes(id)?;
        let request = pb::ConnectRequest { process: selector.into_message().into(), ..Default::default() };
        let events = client.connect_with_options(request, CallOptions::default()).await.map_err(from_guest)?;
        let running = Running { client, events: Events::Joined(events), pid: None, counted: None };
        Ok(GuestProcess { running: Some(running), fate: Fate::LivesOn, place: None })
    }

    /// Hears again what a process has printed; also one that ended a while ago.
    pub async fn replay(&self, id: &SandboxId, selector: Selector, replay: Replay) -> Result<GuestProcess, HostError> {
        let config = ClientConfig::new(self.guest_uri(id, "/")?).with_default_max_message_size(MAX_MESSAGE);
        let sessions = session::SessionClient::new(self.stream_transport(), config);
        let (place, only_what_is_there) = match replay {
            Replay::Follow(place) => (place, false),
            Replay::WhatIsThere(place) => (place, true),
        };
        let process = match selector {
            Selector::Pid(pid) => session::output_request::Process::Pid(pid),
            Selector::Tag(tag) => session::output_request::Process::Tag(tag),
        };
        let request =
            session::OutputRequest { process: Some(process), from: place, only_what_is_there, ..Default::default() };
        let events = sessions.output_with_options(request, CallOptions::default()).await.map_err(from_guest)?;
        let running =
            Running { client: self.processes(id)?, events: Events::Replayed(events), pid: None, counted: None };
        Ok(GuestProcess { running: Some(running), fate: Fate::LivesOn, place: Some(place) })
    }

    /// The guest's process service.
    pub(super) fn processes(&self, id: &SandboxId) -> Result<Client, HostError> {
        let config = ClientConfig::new(self.guest_uri(id, "/")?).with_default_max_message_size(MAX_MESSAGE);
        Ok(Client::new(self.stream_transport(), config))
    }

    async fn start_with(&self, id: &SandboxId, spec: ProcessSpec, fate: Fate) -> Result<GuestProcess, HostError> {
        let client = self.processes(id)?;
        let mut options = CallOptions::default();
        if let Some(limit) = spec.limit.duration() {
            // Sent along: the guest ends the process by itself when the time is over.
            options = options.with_timeout(limit);
        }
        if let Some(user) = &spec.user {
            options = options.with_header("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:"))));
        }
        let config = pb::ProcessConfig {
            cmd: spec.cmd,
            args: spec.args,
            envs: spec.envs.into_iter().collect(),
            cwd: spec.cwd,
            ..Default::default()
        };
        let request = pb::StartRequest {
            process: config.into(),
            pty: spec.terminal.map(TerminalSize::into_message).into(),
            tag: spec.tag,
            stdin: Some(spec.terminal.is_some()),
            ..Default::default()
        };
        // One that nobody follows is not an exec that somebody waits for.
        let mut counted = matches!(fate, Fate::Dies(_)).then(|| self.metrics.follow_exec());
        match client.start_with_options(request, options).await.map_err(from_guest) {
            Ok(events) => {
                let running = Running { client, events: Events::Started(events), pid: None, counted };
                Ok(GuestProcess { running: Some(running), fate, place: Some(0) })
            }
            Err(error) => {
                if let Some(counted) = &mut counted {
                    counted.ends(ExecEnd::Error(error.reason()));
                }
                Err(error)
            }
        }
    }
}

impl Selector {
    pub(super) fn into_message(self) -> pb::ProcessSelector {
        let selector = match self {
            Self::Pid(pid) => oneof::process_selector::Selector::Pid(pid),
            Self::Tag(tag) => oneof::process_selector::Selector::Tag(tag),
        };
        pb::ProcessSelector { selector: Some(selector), ..Default::default() }
    }
}

impl TerminalSize {
    pub(super) fn into_message(self) -> pb::PTY {
        let size = pb::pty::Size { cols: self.cols, rows: self.rows, ..Default::default() };
        pb::PTY { size: size.into(), ..Default::default() }
    }
}

impl GuestProcess {
    /// Waits until it runs. Only for one that was just started or joined.
    pub async fn started(&mut self) -> Result<u32, HostError> {
        let late = |_| HostError::answered(ErrorCode::DeadlineExceeded, "the process does not say that it started");
        match tokio::time::timeout(SIGNAL, self.next()).await.map_err(late)?? {
            Some(ProcessEvent::Started { pid }) => Ok(pid),
            _ => Err(HostError::answered(ErrorCode::Internal, "the guest does not say what it started")),
        }
    }

    /// Whether it was started for its follower alone.
    pub fn dies_with_follower(&self) -> bool {
        matches!(self.fate, Fate::Dies(_))
    }

    /// The next event, or `None` after the end. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, HostError> {
        let Some(running) = &mut self.running else { return Ok(None) };
        let event = running.next().await.inspect_err(|error| {
            let end = if error.is_timeout() { ExecEnd::TimedOut } else { ExecEnd::Error(error.reason()) };
            running.count(end);
        })?;
        let end = match &event {
            None => Some(ExecEnd::Error("lost")),
            Some(ProcessEvent::Exited { code, .. }) => Some(ExecEnd::exited(*code)),
            Some(_) => None,
        };
        if let Some(end) = end {
            running.count(end);
            self.running = None;
        }
        self.place = self.place.map(|place| place + event.as_ref().map_or(0, ProcessEvent::bytes));
        event.map(Some).ok_or_else(|| HostError::answered(ErrorCode::Internal, "the guest does not say how it ended"))
    }

    /// How much it had printed after the last event, to standard output and error together, where that is known.
    pub fn place(&self) -> Option<u64> {
        self.place
    }

    /// Kills the process and those that it started. Its remaining events follow.
    pub async fn kill(&mut self) -> Result<(), HostError> {
        match &mut self.running {
            Some(running) => running.kill().await,
            None => Ok(()),
        }
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        let (Some(mut running), Fate::Dies(tasks)) = (self.running.take(), &self.fate) else { return };
        let kill = async move {
            if let Err(error) = running.kill().await
                && !error.is_not_found()
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "a process of a client that left may run on");
            }
        };
        tasks.spawn(kill.in_current_span());
    }
}

impl Running {
    fn count(&mut self, end: ExecEnd) {
        if let Some(counted) = &mut self.counted {
            counted.ends(end);
        }
    }

    /// The next event that says something, or `None` when the stream ended without one.
    async fn next(&mut self) -> Result<Option<ProcessEvent>, HostError> {
        loop {
            let event = match &mut self.events {
                Events::Replayed(events) => match events.message().await.map_err(from_guest)? {
                    None => return Ok(None),
                    Some(message) => match heard(message.to_owned_message())? {
                        Some(ProcessEvent::Started { pid }) => {
                            self.pid = Some(pid);
                            return Ok(Some(ProcessEvent::Started { pid }));
                        }
                        Some(event) => return Ok(Some(event)),
                        None => continue,
                    },
                },
                Events::Started(events) => {
                    events.message().await.map_err(from_guest)?.map(|message| message.to_owned_message().event)
                }
                Events::Joined(events) => {
                    events.message().await.map_err(from_guest)?.map(|message| message.to_owned_message().event)
                }
            };
            let Some(event) = event else { return Ok(None) };
            let event = event.into_option().and_then(|event| event.event);
            match event.and_then(readable) {
                Some(ProcessEvent::Started { pid }) => {
                    self.pid = Some(pid);
                    return Ok(Some(ProcessEvent::Started { pid }));
                }
                Some(event) => return Ok(Some(event)),
                None => {}
            }
        }
    }

    async fn kill(&mut self) -> Result<(), HostError> {
        let late = |_| HostError::answered(ErrorCode::DeadlineExceeded, "the process does not say that it started");
        let pid = match self.pid {
            Some(pid) => pid,
            // It may have been started although we do not know it yet.
            None => match tokio::time::timeout(SIGNAL, self.next()).await.map_err(late)?? {
                Some(ProcessEvent::Started { pid }) => pid,
                _ => return Ok(()),
            },
        };
        let request = pb::SendSignalRequest {
            process: Selector::Pid(pid).into_message().into(),
            signal: pb::Signal::SIGNAL_SIGKILL.into(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(SIGNAL);
        self.client.send_signal_with_options(request, options).await.map_err(from_guest)?;
        Ok(())
    }
}

impl ProcessEvent {
    /// By how much it goes further in all that the process printed.
    fn bytes(&self) -> u64 {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len() as u64,
            Self::Lost(bytes) => *bytes,
            Self::Started { .. } | Self::Exited { .. } => 0,
        }
    }
}

/// What is heard again.
fn heard(message: session::OutputResponse) -> Result<Option<ProcessEvent>, HostError> {
    use session::data::Output;
    use session::output_response::Event;
    Ok(match message.event {
        Some(Event::Start(start)) => Some(ProcessEvent::Started { pid: start.pid }),
        Some(Event::Data(data)) => data.output.map(|output| match output {
            Output::Stdout(bytes) | Output::Pty(bytes) => ProcessEvent::Stdout(bytes.into()),
            Output::Stderr(bytes) => ProcessEvent::Stderr(bytes.into()),
        }),
        Some(Event::Lost(lost)) => Some(ProcessEvent::Lost(lost.bytes)),
        Some(Event::End(end)) if end.timed_out => {
            let words = "the process was killed because its time was over";
            return Err(HostError::answered(ErrorCode::DeadlineExceeded, words));
        }
        Some(Event::End(end)) => {
            Some(ProcessEvent::Exited { code: end.exit_code, status: end.status.chars().take(200).collect() })
        }
        Some(Event::Keepalive(_)) | None => None,
    })
}

fn readable(event: oneof::process_event::Event) -> Option<ProcessEvent> {
    use oneof::process_event::{Event, data_event::Output};
    match event {
        Event::Start(start) => Some(ProcessEvent::Started { pid: start.pid }),
        Event::Data(data) => match data.output? {
            Output::Stdout(bytes) | Output::Pty(bytes) => Some(ProcessEvent::Stdout(bytes.into())),
            Output::Stderr(bytes) => Some(ProcessEvent::Stderr(bytes.into())),
        },
        Event::End(end) => {
            Some(ProcessEvent::Exited { code: end.exit_code, status: end.status.chars().take(200).collect() })
        }
        Event::Keepalive(_) => None,
    }
}

/// A guest that does not know the user says so as a failed authentication: for the caller it is a wrong argument.
pub(super) fn from_guest(error: connectrpc::ConnectError) -> HostError {
    match HostError::from(error) {
        HostError::Answered { code: ErrorCode::Unauthenticated, message } => {
            HostError::Answered { code: ErrorCode::InvalidArgument, message }
        }
        other => other,
    }
}
