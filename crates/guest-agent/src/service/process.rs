//! The process service of the wire contract.
#![allow(refining_impl_trait_internal, refining_impl_trait_reachable)]

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::stream::{self, Stream, StreamExt};
use proto::process as wire;
use proto::process::process_event as wire_event;
use proto::process::process_selector::Selector as WireSelector;
use proto::process::stream_input_request::Event as InputEvent;
use tokio::time::{Instant, timeout};

use super::Agent;
use super::error::{input_error, no_process, start_error};
use super::filesystem::user_of;
use super::process_input;
use crate::process::reaper::Exit;
use crate::process::{
    Attached, Chunk, Command, End, Event, From, Kind, Listener, Process, Request, Selector, Streams, number,
};

/// How often a stream on which nothing happens says that it lives, unless the client asks for another time.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// The service.
pub struct Service(pub Arc<Agent>);

impl wire::Process for Service {
    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<wire::StartResponse>> {
        let settings = self.0.settings.current();
        let request = start_request(request.to_owned_message(), user_of(&ctx, &settings), ctx.deadline())?;
        let attached = self.0.processes.start(request, settings).await.map_err(start_error)?;
        let respond = |event: wire::ProcessEvent| wire::StartResponse { event: event.into(), ..Default::default() };
        let events = events(attached, keepalive(&ctx), Listens::Starter);
        Ok(Response::new(Box::pin(events.map(move |event| event.map(respond)))))
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::ConnectRequest>,
    ) -> ServiceResult<ServiceStream<wire::ConnectResponse>> {
        let selector = selector(request.to_owned_message().process.into_option())?;
        let attached = self.0.processes.attach(&selector, From::Now).map_err(no_process)?;
        let respond = |event: wire::ProcessEvent| wire::ConnectResponse { event: event.into(), ..Default::default() };
        let events = events(attached, keepalive(&ctx), Listens::Other).map(move |event| event.map(respond));
        Ok(Response::new(until(events, ctx.deadline())))
    }

    async fn list(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<wire::ListResponse> {
        let processes = self.0.processes.list().iter().map(|process| info(process)).collect();
        Response::ok(wire::ListResponse { processes, ..Default::default() })
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<wire::SendSignalResponse> {
        let request = request.to_owned_message();
        let signal = match request.signal.as_known() {
            Some(wire::Signal::SIGNAL_SIGKILL) => rustix::process::Signal::KILL,
            Some(wire::Signal::SIGNAL_SIGTERM) => rustix::process::Signal::TERM,
            _ => return Err(ConnectError::unimplemented("only SIGTERM and SIGKILL can be sent")),
        };
        let selector = selector(request.process.into_option())?;
        self.0.processes.signal(&selector, signal).map_err(no_process)?;
        Response::ok(wire::SendSignalResponse::default())
    }

    async fn update(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::UpdateRequest>,
    ) -> ServiceResult<wire::UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.into_option())?;
        if let Some(pty) = request.pty.into_option() {
            process.input.resize(process_input::size(pty)?).map_err(input_error)?;
        }
        Response::ok(wire::UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        ctx: RequestContext,
        mut requests: InboundStream<wire::StreamInputRequest>,
    ) -> ServiceResult<wire::StreamInputResponse> {
        let all = async {
            let mut process = None;
            while let Some(request) = requests.next().await {
                match request?.to_owned_message().event {
                    Some(InputEvent::Start(start)) => process = Some(self.running(start.process.into_option())?),
                    Some(InputEvent::Data(data)) => {
                        let process = process.as_ref().ok_or_else(process_input::no_start)?;
                        process_input::send(process, data.input.into_option()).await?;
                    }
                    Some(InputEvent::Keepalive(_)) => {}
                    None => return Err(ConnectError::unimplemented("an event is start, data or keepalive")),
                }
            }
            Ok(())
        };
        process_input::in_time(ctx.deadline(), all).await?;
        Response::ok(wire::StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::SendInputRequest>,
    ) -> ServiceResult<wire::SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.running(request.process.into_option())?;
        process_input::in_time(ctx.deadline(), process_input::send(&process, request.input.into_option())).await?;
        Response::ok(wire::SendInputResponse::default())
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::CloseStdinRequest>,
    ) -> ServiceResult<wire::CloseStdinResponse> {
        let process = self.running(request.to_owned_message().process.into_option())?;
        process.input.close_stdin().map_err(input_error)?;
        Response::ok(wire::CloseStdinResponse::default())
    }
}

impl Service {
    fn running(&self, selected: Option<wire::ProcessSelector>) -> Result<Arc<Process>, ConnectError> {
        self.0.processes.running(&selector(selected)?).map_err(no_process)
    }
}

fn start_request(
    request: wire::StartRequest,
    user: String,
    deadline: Option<std::time::Instant>,
) -> Result<Request, ConnectError> {
    let config = request.process.into_option().ok_or_else(|| ConnectError::invalid_argument("process is missing"))?;
    let command =
        Command { cmd: config.cmd, args: config.args, envs: config.envs.into_iter().collect(), cwd: config.cwd };
    let streams = match (request.pty.into_option(), request.stdin) {
        (Some(pty), _) => Streams::Terminal(process_input::size(pty)?),
        (None, Some(false)) => Streams::Output,
        (None, _) => Streams::Pipes,
    };
    Ok(Request { command, user, tag: request.tag, streams, deadline })
}

fn selector(selector: Option<wire::ProcessSelector>) -> Result<Selector, ConnectError> {
    match selector.and_then(|selector| selector.selector) {
        Some(WireSelector::Pid(pid)) => Ok(Selector::Pid(pid)),
        Some(WireSelector::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(ConnectError::unimplemented("a process is selected by pid or tag")),
    }
}

fn info(process: &Process) -> wire::ProcessInfo {
    let Command { cmd, args, envs, cwd } = process.command.clone();
    let config = wire::ProcessConfig { cmd, args, envs: envs.into_iter().collect(), cwd, ..Default::default() };
    let (pid, tag) = (number(process.pid), process.tag.clone());
    wire::ProcessInfo { config: config.into(), pid, tag, ..Default::default() }
}

/// How often a silent stream of this request says that it lives.
pub fn keepalive(ctx: &RequestContext) -> Duration {
    let header = ctx.header("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
    header.filter(|seconds| *seconds > 0).map_or(KEEPALIVE, Duration::from_secs)
}

/// Who listens to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    /// Whoever started it, and said how long it may take.
    Starter,
    /// Somebody else, for whom one whose time was over was killed like any other.
    Other,
}

/// All that a listener is told: the start, the output, a sign of life when there is none, the end.
fn events(
    attached: Attached,
    keepalive: Duration,
    who: Listens,
) -> impl Stream<Item = Result<wire::ProcessEvent, ConnectError>> {
    let start = wire_event::StartEvent { pid: number(attached.pid), ..Default::default() };
    let rest = stream::unfold(Some(attached.events), move |events| next(events, keepalive, who));
    stream::once(async { Ok(wrap(start)) }).chain(rest)
}

type Told = Result<wire::ProcessEvent, ConnectError>;

async fn next(events: Option<Listener>, keepalive: Duration, who: Listens) -> Option<(Told, Option<Listener>)> {
    let mut events = events?;
    let told = match timeout(keepalive, events.next()).await {
        Err(_) => Ok(wrap(wire_event::KeepAlive::default())),
        Ok(Event::Output(Chunk { kind, bytes, .. })) => Ok(output(match kind {
            Kind::Stdout => wire_event::data_event::Output::Stdout(bytes.into()),
            Kind::Stderr => wire_event::data_event::Output::Stderr(bytes.into()),
            Kind::Terminal => wire_event::data_event::Output::Pty(bytes.into()),
        })),
        Ok(Event::Lost(_)) => return Some((Err(ConnectError::data_loss("some output is not kept any more")), None)),
        Ok(Event::End(how)) => {
            let told = match (how, who) {
                (End::Exited(exit), _) => Ok(wrap(end(exit))),
                (End::TimedOut, Listens::Other) => Ok(wrap(end(Exit::Signal(libc::SIGKILL)))),
                (End::TimedOut, Listens::Starter) => {
                    Err(ConnectError::deadline_exceeded("the process was killed because its time was over"))
                }
            };
            return Some((told, None));
        }
    };
    Some((told, Some(events)))
}

/// A listener's own deadline ends what it hears, not the process.
fn until<T: Send + 'static>(
    events: impl Stream<Item = Result<T, ConnectError>> + Send + 'static,
    deadline: Option<std::time::Instant>,
) -> ServiceStream<T> {
    let Some(deadline) = deadline else { return Box::pin(events) };
    let over = async move {
        tokio::time::sleep_until(Instant::from_std(deadline)).await;
        Err(ConnectError::deadline_exceeded("the time to listen is over"))
    };
    let over = Box::pin(stream::once(over));
    // The first error ends the stream; the process's end does so too, because then nobody asks for more.
    Box::pin(stream::unfold((Box::pin(events), Some(over)), async |(mut events, over)| {
        let mut over = over?;
        tokio::select! {
            biased;
            event = events.next() => event.map(|event| (event, (events, Some(over)))),
            error = over.next() => error.map(|error| (error, (events, None))),
        }
    }))
}

fn wrap(event: impl Into<wire_event::Event>) -> wire::ProcessEvent {
    wire::ProcessEvent { event: Some(event.into()), ..Default::default() }
}

fn output(output: wire_event::data_event::Output) -> wire::ProcessEvent {
    wrap(wire_event::DataEvent { output: Some(output), ..Default::default() })
}

/// How a process ended, in the words of the contract.
pub fn end(exit: Exit) -> wire_event::EndEvent {
    let (exit_code, exited, status) = match exit {
        Exit::Code(code) => (code, true, format!("exit status {code}")),
        Exit::Signal(signal) => (-1, false, format!("signal: {}", signal_name(signal))),
    };
    let error = (exit != Exit::Code(0)).then(|| status.clone());
    wire_event::EndEvent { exit_code, exited, status, error, ..Default::default() }
}

/// Signals by the names that clients of the contract know.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
