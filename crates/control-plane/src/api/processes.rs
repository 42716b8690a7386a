//! Processes that run in a sandbox: a list of them, and their end.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, SandboxIdParam, schema};
use super::request::{Caller, InPath, in_path, json as json_answer};
use crate::host::{ProcessInfo, Selector, Signal};

/// The `{process}` of a path: a process id or a tag.
pub struct ProcessInPath(pub Selector);

impl<S: Send + Sync> FromRequestParts<S> for ProcessInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = in_path(parts, state, "process").await.unwrap_or_default();
        Ok(Self(text.parse().map_or(Selector::Tag(text), Selector::Pid)))
    }
}

/// The same for the document.
pub struct ProcessParam;

impl IntoParams for ProcessParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = ParameterBuilder::new()
            .name("process")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The process's id or its tag"))
            .schema(Some(schema(json!({"type": "string", "minLength": 1}))));
        vec![parameter.build()]
    }
}

/// The processes of a sandbox.
#[derive(Serialize, ToSchema)]
struct ProcessList {
    processes: Vec<Process>,
}

/// A process that was started over the API and runs.
#[derive(Serialize, ToSchema)]
struct Process {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    cmd: String,
    args: Vec<String>,
}

impl From<ProcessInfo> for Process {
    fn from(info: ProcessInfo) -> Self {
        Self { pid: info.pid, tag: info.tag, cmd: info.cmd, args: info.args }
    }
}

/// List processes
///
/// Those that were started over the API and run.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/processes",
    operation_id = "listProcesses",
    tag = "commands",
    params(SandboxIdParam),
    responses((status = 200, description = "All of them", body = ProcessList), HostErrors)
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
) -> Result<Response, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    api.touch(&sandbox).await;
    let processes = api.host.list_processes(&id).await?.into_iter().map(Process::from).collect();
    Ok(json_answer(StatusCode::OK, &ProcessList { processes }))
}

struct SignalParam;

impl IntoParams for SignalParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let signals = json!({"type": "string", "enum": ["SIGKILL", "SIGTERM"], "default": "SIGKILL"});
        let builder = ParameterBuilder::new().name("signal").parameter_in(ParameterIn::Query);
        vec![builder.description(Some("What is sent to it")).schema(Some(schema(signals))).build()]
    }
}

/// End a process
///
/// With those that it started.
#[utoipa::path(
    delete,
    path = "/v1/sandboxes/{id}/processes/{process}",
    operation_id = "killProcess",
    tag = "commands",
    params(SandboxIdParam, ProcessParam, SignalParam),
    responses((status = 204, description = "The signal is sent"), HostErrors)
)]
pub async fn kill(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    ProcessInPath(selector): ProcessInPath,
    request: axum::extract::Request,
) -> Result<StatusCode, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    let signal = signal(request.uri().query().unwrap_or_default())?;
    api.touch(&sandbox).await;
    api.host.signal(&id, selector, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn signal(query: &str) -> Result<Signal, ApiError> {
    let given = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "signal");
    match given.as_ref().map(|(_, value)| value.as_ref()) {
        None | Some("SIGKILL") => Ok(Signal::Kill),
        Some("SIGTERM") => Ok(Signal::Terminate),
        Some(_) => Err(ApiError::invalid_request("signal must be SIGKILL or SIGTERM")),
    }
}
