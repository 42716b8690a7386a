//! What a process printed, from any place that its guest still keeps: lines of JSON, whole bytes, and its end.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Uri, header};
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, QueryErrors, SandboxIdParam, schema};
use super::processes::{ProcessInPath, ProcessParam};
use super::request::{Caller, InPath};
use crate::host::{GuestProcess, HostError, ProcessEvent, Replay};

/// A place in what a process printed.
pub struct FromParam;

impl IntoParams for FromParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("from").parameter_in(ParameterIn::Query);
        let place = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
        let builder = builder.description(Some("How many bytes of all that it printed are not wanted again"));
        vec![builder.schema(Some(schema(place))).build()]
    }
}

/// Whether one waits for more.
struct FollowParam;

impl IntoParams for FollowParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("follow").parameter_in(ParameterIn::Query);
        let builder = builder.description(Some("Whether what it prints from now on follows, to its end"));
        vec![builder.schema(Some(schema(json!({"type": "boolean", "default": true})))).build()]
    }
}

fn in_query(query: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(given, _)| given == name).map(|(_, value)| value.into_owned())
}

/// The `from` of a query.
pub fn place(query: &str) -> Result<Option<u64>, ApiError> {
    let not_valid = |_: std::num::ParseIntError| ApiError::invalid_request("from must be a number of bytes");
    let place = in_query(query, "from").map(|text| text.parse::<u64>());
    place.transpose().map_err(not_valid)
}

fn follow(query: &str) -> Result<bool, ApiError> {
    match in_query(query, "follow").as_deref() {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(_) => Err(ApiError::invalid_request("follow must be true or false")),
    }
}

/// Read a process's output
///
/// Lines of JSON, also of a process that ended a while ago; docs/api.md has their members. An answer whose last line tells
/// no end says nothing of how the process ended: ask again from the last `next`.
#[utoipa::path(
    get,
    path = "/v1/sandboxes/{id}/processes/{process}/output",
    operation_id = "processOutput",
    tag = "commands",
    params(SandboxIdParam, ProcessParam, FromParam, FollowParam),
    responses(
        (status = 200, description = "The lines follow", body = String, content_type = "application/x-ndjson"),
        QueryErrors,
        HostErrors
    )
)]
pub async fn output(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    ProcessInPath(selector): ProcessInPath,
    uri: Uri,
) -> Result<Response, ApiError> {
    let query = uri.query().unwrap_or_default();
    let from = place(query)?.unwrap_or_default();
    let replay = if follow(query)? { Replay::Follow(from) } else { Replay::WhatIsThere(from) };
    let sandbox = api.running(&owner, &id).await?;
    api.touch(&sandbox).await;
    let mut process = api.host.replay(&id, selector, replay).await?;
    // Whether there is such a process is known before the answer begins.
    process.started().await?;
    let lines = stream::unfold(Some(process), move |process| next(process, replay));
    let lines = lines.map(|line| Ok::<_, std::convert::Infallible>(Bytes::from(line.to_string() + "\n")));
    let body = Body::from_stream(lines.take_until(api.shutdown.clone().cancelled_owned()));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn next(process: Option<GuestProcess>, replay: Replay) -> Option<(Value, Option<GuestProcess>)> {
    let mut process = process?;
    let data = |stream, bytes: &[u8], next| json!({"type": stream, "data": STANDARD.encode(bytes), "next": next});
    loop {
        let line = match process.next().await {
            Ok(Some(ProcessEvent::Started { .. })) => continue,
            Ok(Some(ProcessEvent::Stdout(bytes))) => data("stdout", &bytes, process.place()),
            Ok(Some(ProcessEvent::Stderr(bytes))) => data("stderr", &bytes, process.place()),
            Ok(Some(ProcessEvent::Lost(bytes))) => json!({"type": "lost", "bytes": bytes, "next": process.place()}),
            Ok(Some(ProcessEvent::Exited { code, status })) => {
                return Some((json!({"type": "exit", "exit_code": code, "status": status}), None));
            }
            Ok(None) => return None,
            Err(error) => return unknown(error, replay).map(|line| (line, None)),
        };
        return Some((line, Some(process)));
    }
}

/// An end that is not known is told as such, unless nobody asked for it.
fn unknown(error: HostError, replay: Replay) -> Option<Value> {
    match (replay, error.is_timeout()) {
        (_, true) => Some(json!({"type": "timed_out", "data": error.to_string()})),
        (Replay::Follow(_), false) => Some(json!({"type": "unknown", "data": error.to_string()})),
        (Replay::WhatIsThere(_), false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_number_of_bytes() {
        assert_eq!(place("").ok(), Some(None));
        assert_eq!(place("follow=true&from=12").ok(), Some(Some(12)));
        for bad in ["from=", "from=-1", "from=x", "from=1.5", "from=99999999999999999999"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert!(follow("").unwrap() && !follow("follow=false").unwrap() && follow("follow=1").is_err());
    }
}
