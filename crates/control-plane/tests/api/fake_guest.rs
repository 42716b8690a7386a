//! The guest's side of the fake's port: files and processes under `/sandboxes/{id}/guest/`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{any, get};
use bytes::Bytes;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::stream::{self, StreamExt};
use http::{StatusCode, Uri};
use http_body_util::BodyExt;
use proto::process as pb;
use proto::process::__buffa::oneof::process_event::Event;
use proto::process::__buffa::oneof::process_event::data_event::Output;
use proto::process::__buffa::oneof::process_selector::Selector;
use proto::process::ProcessExt;
use proto::process::process_event::{DataEvent, EndEvent, StartEvent};
use tower::ServiceExt;

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
    Router::new()
        .route("/sandboxes/{id}/guest/files", get(read_file).post(write_file))
        .route("/sandboxes/{id}/guest/process.Process/{method}", any(process))
        .with_state(host)
}

fn error(status: u16, body: &str) -> HttpResponse {
    (StatusCode::from_u16(status).unwrap(), body.to_owned()).into_response()
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
            "sleep" | "doze" => {
                let killed = async move {
                    host.until(|state| state.killed.contains(&PID)).await;
                    end(-1, "signal: killed")
                };
                let said = (config.cmd == "doze").then(|| stdout("going to sleep"));
                return stream::iter(said).chain(stream::once(killed)).boxed();
            }
            "flood" => {
                let chunk = move || {
                    host.update(|state| state.flooded += 1);
                    stdout(vec![b'x'; 32 << 10])
                };
                return stream::repeat_with(chunk).boxed();
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
        let config = request.to_owned_message().process.into_option().unwrap();
        self.host.enter("start", &config.cmd).await?;
        if config.cwd.as_deref() == Some("/missing") {
            return Err(ConnectError::invalid_argument("cwd '/missing' does not exist"));
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
        assert_eq!(request.signal, pb::Signal::SIGNAL_SIGKILL);
        let selector = request.process.into_option().and_then(|process| process.selector);
        let Some(Selector::Pid(pid)) = selector else { return Err(ConnectError::invalid_argument("no pid")) };
        self.host.update(|state| state.killed.push(pid));
        Response::ok(Default::default())
    }

    async fn list(&self, _: RequestContext, _: ServiceRequest<'_, pb::ListRequest>) -> ServiceResult<pb::ListResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn connect(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::ConnectRequest>,
    ) -> ServiceResult<ServiceStream<pb::ConnectResponse>> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn update(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::UpdateRequest>,
    ) -> ServiceResult<pb::UpdateResponse> {
        Err(ConnectError::unimplemented("not scripted"))
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
        _: ServiceRequest<'_, pb::SendInputRequest>,
    ) -> ServiceResult<pb::SendInputResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn close_stdin(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::CloseStdinRequest>,
    ) -> ServiceResult<pb::CloseStdinResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }
}
