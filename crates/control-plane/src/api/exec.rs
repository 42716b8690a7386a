//! Commands whose output is collected.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::Instrument;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::error::{ApiError, Partial};
use super::idempotency::KeyParam;
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam, schema};
use super::request::{Caller, InPath, json_text, parse_json, read_body, whole, without_nul};
use super::{Api, idempotency};
use crate::host::{Collected, HostError, ProcessSpec, RunLimit};
use crate::metrics::ExecEnd;
use crate::store::{Action, EventKind, Sandbox};

const DEFAULT_TIMEOUT: u32 = 30;

/// A command that takes longer is recorded as a use at its end too.
const LONG: Duration = Duration::from_secs(1);

/// Characters of a program's name in the log of events.
const MAX_AUDITED: usize = 200;

/// Characters of a tag.
const MAX_TAG: usize = 64;

/// What to run, as both the collected and the streaming exec are asked for it.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ExecRequest {
    /// The program. No shell is involved.
    #[serde(default)]
    #[schema(required, min_length = 1, pattern = "^[^\\u0000]+$")]
    cmd: String,
    #[schema(schema_with = args)]
    args: Option<Vec<String>>,
    /// Seconds after which it is killed; 0 means the default, -1 none.
    #[schema(default = 30, minimum = -1, maximum = 2147483647, format = Int64)]
    #[serde(default, deserialize_with = "whole")]
    timeout_sec: Option<i64>,
    #[schema(schema_with = envs)]
    envs: Option<HashMap<String, String>>,
    /// Its directory; the user's home by default.
    #[schema(pattern = "^[^\\u0000]*$")]
    cwd: Option<String>,
    /// Whom it runs as; the template's default user by default.
    #[schema(pattern = "^[^\\u0000:]*$")]
    user: Option<String>,
    /// Answer when it runs, not when it ends; it has no time limit then.
    background: Option<bool>,
    #[schema(schema_with = tag)]
    tag: Option<String>,
}

fn tag() -> RefOr<Schema> {
    schema(json!({
        "type": ["string", "null"],
        "description": "A name for a program in the background, by which it can be found again; `proc-` and 8 characters \
            by default",
        "maxLength": MAX_TAG,
        "pattern": "^([a-zA-Z0-9._-]*[a-zA-Z._-][a-zA-Z0-9._-]*)?$",
    }))
}

fn args() -> RefOr<Schema> {
    schema(json!({
        "type": ["array", "null"],
        "description": "Its arguments",
        "items": {"type": "string", "pattern": "^[^\\u0000]*$"},
    }))
}

fn envs() -> RefOr<Schema> {
    schema(json!({
        "type": ["object", "null"],
        "description": "Added to its environment",
        "propertyNames": {"type": "string", "pattern": "^[^=\\u0000]+$"},
        "additionalProperties": {"type": "string", "pattern": "^[^\\u0000]*$"},
    }))
}

/// What a command printed and how it ended.
#[derive(Serialize, ToSchema)]
#[schema(as = ExecResponse)]
struct ExecAnswer<'a> {
    sandbox_id: &'a str,
    cmd: &'a str,
    stdout: String,
    stderr: String,
    /// 127: no such program; 126: it cannot be executed; 128 and the signal's number: that ended it.
    exit_code: i32,
    /// The signal that ended it; absent where none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    duration_ms: u64,
    #[schema(schema_with = encoding)]
    encoding: &'static str,
    /// Bytes beyond the limit, which are left out.
    #[serde(skip_serializing_if = "is_zero")]
    stdout_omitted: u64,
    #[serde(skip_serializing_if = "is_zero")]
    stderr_omitted: u64,
}

/// A program that was started and runs.
#[derive(Serialize, ToSchema)]
#[schema(as = BackgroundExecResponse)]
struct Started<'a> {
    sandbox_id: &'a str,
    cmd: &'a str,
    pid: u32,
    tag: &'a str,
}

fn encoding() -> RefOr<Schema> {
    schema(json!({
        "type": "string",
        "enum": ["utf-8", "base64"],
        "description": "`base64` means that both streams hold binary data",
    }))
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Run a command
///
/// Collects its output and answers when it ends. An exit code other than 0 is an ordinary 200. With `background`, answers
/// when it runs.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/exec",
    operation_id = "execCommand",
    tag = "commands",
    params(SandboxIdParam, KeyParam),
    request_body = ExecRequest,
    responses(
        (status = 200, description = "It has ended", body = ExecAnswer<'_>),
        (status = 202, description = "It runs in the background", body = Started<'_>),
        JsonErrors,
        HostErrors
    )
)]
pub async fn exec(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let sandbox = api.running(&owner, &id).await?;
    let body = read_body(body, api.limits.json_body).await?;
    let request: ExecRequest = parse_json(&body)?;
    match idempotency::once(&headers, &body)? {
        Some(once) => idempotency::exec(&api, sandbox, request, once).await,
        None => run_to_answer(&api, &sandbox, request).await.map(|(status, text)| json_text(status, text)),
    }
}

/// Runs a command to its end, or to its beginning where it runs in the background. The answer's status and JSON.
pub async fn run_to_answer(
    api: &Arc<Api>,
    sandbox: &Sandbox,
    request: ExecRequest,
) -> Result<(StatusCode, String), ApiError> {
    if request.background == Some(true) {
        return start(api, sandbox, request).await;
    }
    let spec = request.into_spec(RunLimit::Seconds(DEFAULT_TIMEOUT))?;
    let (cmd, limit) = (spec.cmd.clone(), spec.limit);
    let began = Instant::now();
    // Nobody waits for the record of a short command: it is written while that runs.
    let (collected, ()) = tokio::join!(api.host.exec(&sandbox.id, spec), api.touch(sandbox));
    audit(api, sandbox, &cmd, collected.as_ref().map(Collected::end));
    let (collected, took) = (collected?, began.elapsed());
    if took > LONG {
        api.touch(sandbox).await;
    }
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if collected.timed_out {
        return Err(took_too_long(&collected, limit));
    }
    Ok((StatusCode::OK, written(&answer(sandbox, &cmd, &collected, duration_ms))?))
}

fn written(answer: &impl Serialize) -> Result<String, ApiError> {
    let failed = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer cannot be written");
    serde_json::to_string(answer).map_err(failed)
}

/// Records that a command was run, or that one was started whose end nobody waits for here. Nobody waits for the record.
pub(super) fn audit(api: &Api, sandbox: &Sandbox, cmd: &str, end: Result<ExecEnd, &HostError>) {
    let action = match end {
        Ok(ExecEnd::Ok | ExecEnd::Failed) => Action::done(EventKind::Exec),
        Ok(_) => Action::failed(EventKind::Exec, "it took too long and was killed".to_owned()),
        Err(error) => Action::failed(EventKind::Exec, error.to_string()),
    };
    let action = action.with("cmd", cmd.chars().take(MAX_AUDITED).collect::<String>());
    let (store, sandbox) = (api.store.clone(), sandbox.clone());
    let record = async move {
        if let Err(error) = store.record_action(&sandbox, action).await {
            tracing::warn!(sandbox = %sandbox.id, error = &error as &dyn std::error::Error, "a command is not recorded");
        }
    };
    api.tasks.spawn(record.in_current_span());
}

/// Starts a program that needs nobody to follow it.
async fn start(api: &Arc<Api>, sandbox: &Sandbox, request: ExecRequest) -> Result<(StatusCode, String), ApiError> {
    let limit = RunLimit::None;
    let spec = request.into_spec(limit)?;
    let tag = spec.tag.unwrap_or_else(|| random_tag("proc-"));
    let cmd = spec.cmd.clone();
    let spec = ProcessSpec { tag: Some(tag.clone()), limit, ..spec };
    api.touch(sandbox).await;
    let started = async { api.host.start_detached(&sandbox.id, spec).await?.started().await };
    let started = started.await;
    audit(api, sandbox, &cmd, started.as_ref().map(|_| ExecEnd::Ok));
    let started = Started { sandbox_id: sandbox.id.as_str(), cmd: &cmd, pid: started?, tag: &tag };
    Ok((StatusCode::ACCEPTED, written(&started)?))
}

/// A tag that nobody else has.
pub fn random_tag(prefix: &str) -> String {
    // Ids are random and long; a part of one is enough within a sandbox.
    format!("{prefix}{}", &model::SandboxId::random().as_str()[2..10])
}

/// A tag of digits alone would be taken for a process id.
fn usable_tag(tag: String) -> Result<String, ApiError> {
    let is_usable = tag.len() <= MAX_TAG
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !tag.bytes().all(|byte| byte.is_ascii_digit());
    if is_usable {
        return Ok(tag);
    }
    Err(ApiError::invalid_request(format!(
        "tag must have at most {MAX_TAG} of a-z, A-Z, 0-9, '.', '_' and '-', and not digits alone"
    )))
}

/// A plain command is one call. One that says as whom, where or in which environment needs the guest's own protocol.
impl ExecRequest {
    /// Checks the request and fills in its defaults; `limit` is for one that names none.
    pub fn into_spec(self, limit: RunLimit) -> Result<ProcessSpec, ApiError> {
        if self.cmd.is_empty() {
            return Err(ApiError::invalid_request("cmd is required"));
        }
        let spec = ProcessSpec {
            cmd: self.cmd,
            args: self.args.unwrap_or_default(),
            envs: self.envs.unwrap_or_default(),
            cwd: self.cwd.filter(|cwd| !cwd.is_empty()),
            user: self.user.filter(|user| !user.is_empty()),
            limit: self.timeout_sec.map_or(Ok(limit), run_limit)?,
            tag: self.tag.filter(|tag| !tag.is_empty()).map(usable_tag).transpose()?,
            terminal: None,
        };
        check(&spec)?;
        Ok(spec)
    }
}

pub fn check(spec: &ProcessSpec) -> Result<(), ApiError> {
    without_nul("cmd", &spec.cmd)?;
    spec.args.iter().try_for_each(|arg| without_nul("args", arg))?;
    spec.cwd.iter().try_for_each(|cwd| without_nul("cwd", cwd))?;
    spec.user.iter().try_for_each(|user| without_nul("user", user))?;
    if spec.user.iter().any(|user| user.contains(':')) {
        return Err(ApiError::invalid_request("user must not contain a colon"));
    }
    for (name, value) in &spec.envs {
        without_nul("envs", name)?;
        without_nul("envs", value)?;
        if name.is_empty() || name.contains('=') {
            return Err(ApiError::invalid_request("the names in envs must not be empty or contain '='"));
        }
    }
    Ok(())
}

fn run_limit(timeout_sec: i64) -> Result<RunLimit, ApiError> {
    match timeout_sec {
        0 => Ok(RunLimit::Seconds(DEFAULT_TIMEOUT)),
        -1 => Ok(RunLimit::None),
        other => match i32::try_from(other).ok().and_then(|seconds| u32::try_from(seconds).ok()) {
            Some(seconds) => Ok(RunLimit::Seconds(seconds)),
            None => Err(ApiError::invalid_request(format!(
                "timeout_sec must be between 1 and {}, 0 for the default of {DEFAULT_TIMEOUT}, or -1 for none; got {other}",
                i32::MAX
            ))),
        },
    }
}

/// The command was killed; what it printed until then is told all the same.
fn took_too_long(output: &Collected, limit: RunLimit) -> ApiError {
    let seconds = limit.duration().unwrap_or_default().as_secs();
    let message = format!("the command did not end within {seconds} seconds and was killed");
    let (stdout, stderr, encoding) = encoded(output);
    let some = |omitted: u64| Some(omitted).filter(|omitted| *omitted > 0);
    let (stdout_omitted, stderr_omitted) = (some(output.stdout_omitted), some(output.stderr_omitted));
    let partial = Partial { stdout, stderr, encoding: encoding.to_owned(), stdout_omitted, stderr_omitted };
    ApiError::exec_timeout(message, partial)
}

/// Both streams, and how they are put into JSON.
fn encoded(output: &Collected) -> (String, String, &'static str) {
    let text = |bytes, omitted| as_text(bytes, omitted > 0 || output.timed_out);
    match (text(&output.stdout, output.stdout_omitted), text(&output.stderr, output.stderr_omitted)) {
        (Some(stdout), Some(stderr)) => (stdout.to_owned(), stderr.to_owned(), "utf-8"),
        _ => (STANDARD.encode(&output.stdout), STANDARD.encode(&output.stderr), "base64"),
    }
}

fn answer<'a>(sandbox: &'a Sandbox, cmd: &'a str, output: &Collected, duration_ms: u64) -> ExecAnswer<'a> {
    let (stdout, stderr, encoding) = encoded(output);
    ExecAnswer {
        sandbox_id: sandbox.id.as_str(),
        cmd,
        stdout,
        stderr,
        exit_code: output.exit_code,
        signal: output.signal,
        duration_ms,
        encoding,
        stdout_omitted: output.stdout_omitted,
        stderr_omitted: output.stderr_omitted,
    }
}

/// The bytes as text, if they are text. A limit or an early end may have cut the last character in two: that is no
/// binary output.
fn as_text(bytes: &[u8], is_cut: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_thirty_seconds_unless_said_otherwise() {
        for (given, expected) in
            [(0, Some(RunLimit::Seconds(30))), (-1, Some(RunLimit::None)), (7, Some(RunLimit::Seconds(7)))]
        {
            assert_eq!(run_limit(given).ok(), expected);
        }
        for given in [-2, i64::MIN, i64::MAX, i64::from(i32::MAX) + 1] {
            assert!(run_limit(given).is_err(), "{given}");
        }
    }

    #[test]
    fn only_text_is_text() {
        assert_eq!(as_text("grüß".as_bytes(), false), Some("grüß"));
        assert_eq!(as_text(&"grü".as_bytes()[..3], false), None);
        assert_eq!(as_text(&"grü".as_bytes()[..3], true), Some("gr"));
        assert_eq!(as_text(b"a\xffb", true), None);
    }
}
