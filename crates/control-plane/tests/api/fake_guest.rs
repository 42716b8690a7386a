//! The guest's side of the fake's port: files and processes under `/sandboxes/{id}/guest/`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{any, get};
use bytes::Bytes;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::stream::{self, StreamExt};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::BodyExt;
use proto::filesystem::FilesystemExt;
use proto::process as pb;
use proto::process::__buffa::oneof::process_event::Event;
use proto::process::__buffa::oneof::process_event::data_event::Output;
use proto::process::__buffa::oneof::process_input::Input;
use proto::process::__buffa::oneof::process_selector::Selector;
use proto::process::ProcessExt;
use proto::process::process_event::{DataEvent, EndEvent, StartEvent};
use proto::session::{self, SessionExt};
use tower::ServiceExt;

use crate::fake_files::Files;
use crate::fake_host::FakeHost;

pub const PID: u32 = 77;

pub fn routes(host: Arc<FakeHost>) -> Router {
    let processes = ProcessExt::register(Arc::new(Processes { host: host.clone() }), connectrpc::Router::new());
    let processes = processes.into_axum_service();
    let process = async move |Path((_, method)): Path<(String, String)>, request: Request| {
        let mut request = request;
        *request.uri_mut() = format!("/process.Process/{method}").parse::<Uri>().unwrap();
        processes.clone().oneshot(request).await.unwrap().into_response()
    };
    let sessions = SessionExt::register(Arc::new(Sessions { host: host.clone() }), connectrpc::Router::new());
    let sessions = sessions.into_axum_service();
    let session = async move |Path((_, method)): Path<(String, String)>, request: Request| {
        let mut request = request;
        *request.uri_mut() = format!("/session.Session/{method}").parse::<Uri>().unwrap();
        sessions.clone().oneshot(request).await.unwrap().into_response()
    };
    let files = FilesystemExt::register(Arc::new(Files { host: host.clone() }), connectrpc::Router::new());
    let files = files.into_axum_service();
    let filesystem = async move |Path((_, method)): Path<(String, String)>, request: Request| {
        let mut request = request;
        *request.uri_mut() = format!("/filesystem.Filesystem/{method}").parse::<Uri>().unwrap();
        files.clone().oneshot(request).await.unwrap().into_response()
    };
    Router::new()
        .route("/sandboxes/{id}/guest/files", get(read_file).post(write_file))
        .route("/sandboxes/{id}/guest/health", get(health))
        .route("/sandboxes/{id}/guest/process.Process/{method}", any(process))
        .route("/sandboxes/{id}/guest/session.Session/{method}", any(session))
        .route("/sandboxes/{id}/guest/filesystem.Filesystem/{method}", any(filesystem))
        .layer(map_response(async |mut answer: HttpResponse| {
            answer.headers_mut().insert("x-envd-version", HeaderValue::from_static("0.6.13"));
            answer
        }))
        .with_state(host)
}

fn error(status: u16, body: &str) -> HttpResponse {
    (StatusCode::from_u16(status).unwrap(), body.to_owned()).into_response()
}

async fn health(State(host): State<Arc<FakeHost>>, Path(id): Path<String>) -> HttpResponse {
    match host.enter("health", &id).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => (failure.http_status(), failure.to_json()).into_response(),
    }
}

async fn read_file(
    State(host): State<Arc<FakeHost>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> HttpResponse {
    if let Err(failure) = host.enter("read", &id).await {
        return (failure.http_status(), failure.to_json()).into_response();
    }
    match query["path"].as_str() {
        "/endless" => {
            let ended = Ended(host.clone());
            let chunk = move || {
                let _ = &ended;
                Ok::<_, String>(Bytes::from(vec![b'x'; 65536]))
            };
            Body::from_stream(stream::repeat_with(chunk)).into_response()
        }
        "/dir" => error(400, r#"{"code":400,"message":"is a directory"}"#),
        "/locked" => error(403, r#"{"code":403,"message":"permission denied"}"#),
        "/broken" => error(500, "a guest can answer anything"),
        path => match host.state().files.get(path) {
            Some(file) => file.clone().into_response(),
            None => error(404, r#"{"code":404,"message":"file not found"}"#),
        },
    }
}

/// Tells that a download is given up.
struct Ended(Arc<FakeHost>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.update(|state| state.downloads_ended += 1);
    }
}

async fn write_file(
    State(host): State<Arc<FakeHost>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    body: Body,
) -> HttpResponse {
    let path = query["path"].clone();
    host.update(|state| state.calls.push(format!("upload {id}")));
    if path == "/full" {
        return error(507, r#"{"code":507,"message":"no space left on device"}"#);
    }
    match body.collect().await {
        Ok(body) => {
            host.update(|state| state.files.insert(path, body.to_bytes()));
            StatusCode::OK.into_response()
        }
        Err(_) => {
            host.update(|state| state.broken_uploads.push(path));
            StatusCode::BAD_REQUEST.into_response()
        }
    }
}

struct Processes {
    host: Arc<FakeHost>,
}

struct Sessions {
    host: Arc<FakeHost>,
}

impl session::Session for Sessions {
    /// The one process wrote `0123456789`, of which the first two bytes are not kept, and ended with 4.
    async fn output(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, session::OutputRequest>,
    ) -> ServiceResult<ServiceStream<session::OutputResponse>> {
        use session::output_response::Event;
        let request = request.to_owned_message();
        match request.process {
            Some(session::output_request::Process::Pid(PID)) => {}
            Some(session::output_request::Process::Tag(tag)) if tag == "job" => {}
            other => return Err(ConnectError::not_found(format!("no such process: {other:?}"))),
        }
        self.host.enter("replay", &request.from.to_string()).await?;
        let told = |event| session::OutputResponse { event: Some(event), ..Default::default() };
        let mut events = vec![told(session::Start { pid: PID, ..Default::default() }.into())];
        if request.from < 2 {
            events.push(told(session::Lost { bytes: 2 - request.from, ..Default::default() }.into()));
        }
        let from = request.from.clamp(2, 10);
        let text = b"0123456789"[from as usize..].to_vec();
        if !text.is_empty() {
            let output = Some(session::data::Output::Stdout(text));
            events.push(told(Event::from(session::Data { offset: from, output, ..Default::default() })));
        }
        if !request.only_what_is_there {
            let end = session::End { exit_code: 4, status: "exit status 4".into(), ..Default::default() };
            events.push(told(end.into()));
        }
        Ok(Response::stream(stream::iter(events).map(Ok)))
    }
}

fn event(event: impl Into<Event>) -> pb::StartResponse {
    let event = pb::ProcessEvent { event: Some(event.into()), ..Default::default() };
    pb::StartResponse { event: event.into(), ..Default::default() }
}

fn stdout(bytes: impl Into<Vec<u8>>) -> pb::StartResponse {
    event(DataEvent { output: Some(Output::Stdout(bytes.into())), ..Default::default() })
}

fn end(exit_code: i32, status: &str) -> pb::StartResponse {
    event(EndEvent { exit_code, exited: exit_code >= 0, status: status.into(), ..Default::default() })
}

/// The one process that there is has a tag.
fn pid_of(process: Option<pb::ProcessSelector>) -> Result<u32, ConnectError> {
    match process.and_then(|process| process.selector) {
        Some(Selector::Pid(PID)) => Ok(PID),
        Some(Selector::Tag(tag)) if tag == "job" || tag.starts_with("pty-") => Ok(PID),
        other => Err(ConnectError::not_found(format!("no such process: {other:?}"))),
    }
}

impl Processes {
    /// What a program does after its start.
    fn run(&self, config: pb::ProcessConfig, user: String) -> stream::BoxStream<'static, pb::StartResponse> {
        let host = self.host.clone();
        let script = match config.cmd.as_str() {
            "echo" => vec![stdout(config.args.join(" ")), end(0, "exit status 0")],
            "about" => {
                let mut envs: Vec<_> = config.envs.iter().map(|(name, value)| format!("{name}={value}")).collect();
                envs.sort();
                let cwd = config.cwd.unwrap_or_default();
                vec![stdout(format!("{user} {cwd} {}", envs.join(" "))), end(0, "exit status 0")]
            }
            "split" => "a\u{20ac}b".bytes().map(|byte| stdout([byte])).chain([end(3, "exit status 3")]).collect(),
            "binary" => vec![stdout(b"a\xff\x00b".as_slice()), end(0, "exit status 0")],
            "sleep" => {
                let killed = async move {
                    host.until(|state| state.killed.contains(&PID)).await;
                    end(-1, "signal: killed")
                };
                return stream::once(killed).boxed();
            }
            "flood" => {
                let chunk = move || {
                    host.update(|state| state.flooded += 1);
                    stdout(vec![b'x'; 32 << 10])
                };
                return stream::repeat_with(chunk).boxed();
            }
            "shell" => {
                let typed = stream::unfold((host, 0), async |(host, taken): (Arc<FakeHost>, usize)| {
                    host.until(|state| state.typed.len() > taken || state.killed.contains(&PID)).await;
                    let bytes = host.state().typed[taken..].to_vec();
                    let taken = taken + bytes.len();
                    let echoed = event(DataEvent { output: Some(Output::Pty(bytes.clone())), ..Default::default() });
                    (!bytes.is_empty()).then_some((echoed, (host, taken)))
                });
                return typed.chain(stream::iter([end(-1, "signal: killed")])).boxed();
            }
            "vanish" => Vec::new(),
            other => vec![stdout(format!("{other}: not found")), end(127, "exit status 127")],
        };
        stream::iter(script).boxed()
    }
}

impl pb::Process for Processes {
    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, pb::StartRequest>,
    ) -> ServiceResult<ServiceStream<pb::StartResponse>> {
        let request = request.to_owned_message();
        if let Some(size) = request.pty.into_option().and_then(|pty| pty.size.into_option()) {
            self.host.enter("terminal", &format!("{}x{}", size.cols, size.rows)).await?;
        }
        let config = request.process.into_option().unwrap();
        self.host.enter("start", &config.cmd).await?;
        if config.cwd.as_deref() == Some("/missing") {
            return Err(ConnectError::invalid_argument("cwd '/missing' does not exist"));
        }
        if config.cmd == "deadline" {
            let limit = ctx.header("connect-timeout-ms").map_or("none", |value| value.to_str().unwrap());
            let said = [event(StartEvent { pid: PID, ..Default::default() }), stdout(limit), end(0, "exit status 0")];
            return Ok(Response::stream(stream::iter(said).map(Ok)));
        }
        let user = ctx.header("authorization").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let started = event(StartEvent { pid: PID, ..Default::default() });
        let events = stream::iter([started]).chain(self.run(config, user));
        Ok(Response::stream(events.map(Ok)))
    }

    async fn send_signal(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::SendSignalRequest>,
    ) -> ServiceResult<pb::SendSignalResponse> {
        let request = request.to_owned_message();
        let pid = pid_of(request.process.into_option())?;
        self.host.update(|state| match request.signal == pb::Signal::SIGNAL_SIGKILL {
            true => state.killed.push(pid),
            false => state.terminated.push(pid),
        });
        Response::ok(Default::default())
    }

    async fn list(&self, _: RequestContext, _: ServiceRequest<'_, pb::ListRequest>) -> ServiceResult<pb::ListResponse> {
        let config = pb::ProcessConfig { cmd: "echo".into(), args: vec!["9".into()], ..Default::default() };
        let process =
            pb::ProcessInfo { config: config.into(), pid: PID, tag: Some("job".into()), ..Default::default() };
        Response::ok(pb::ListResponse { processes: vec![process], ..Default::default() })
    }

    async fn connect(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::ConnectRequest>,
    ) -> ServiceResult<ServiceStream<pb::ConnectResponse>> {
        let pid = pid_of(request.to_owned_message().process.into_option())?;
        self.host.enter("join", &pid.to_string()).await?;
        let started = event(StartEvent { pid, ..Default::default() });
        let config = pb::ProcessConfig { cmd: "shell".into(), ..Default::default() };
        let events = stream::iter([started, stdout("joined")]).chain(self.run(config, String::new()));
        let events = events.map(|start| pb::ConnectResponse { event: start.event, ..Default::default() });
        Ok(Response::stream(events.map(Ok)))
    }

    async fn update(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::UpdateRequest>,
    ) -> ServiceResult<pb::UpdateResponse> {
        let size = request.to_owned_message().pty.into_option().and_then(|pty| pty.size.into_option()).unwrap();
        self.host.enter("resize", &format!("{}x{}", size.cols, size.rows)).await?;
        Response::ok(Default::default())
    }

    async fn stream_input(
        &self,
        _: RequestContext,
        _: connectrpc::InboundStream<pb::StreamInputRequest>,
    ) -> ServiceResult<pb::StreamInputResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn send_input(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::SendInputRequest>,
    ) -> ServiceResult<pb::SendInputResponse> {
        let input = request.to_owned_message().input.into_option().and_then(|input| input.input);
        let Some(Input::Pty(bytes)) = input else { return Err(ConnectError::invalid_argument("no terminal input")) };
        self.host.enter("type", "").await?;
        self.host.update(|state| state.typed.extend(bytes));
        Response::ok(Default::default())
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::CloseStdinRequest>,
    ) -> ServiceResult<pb::CloseStdinResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }
}
