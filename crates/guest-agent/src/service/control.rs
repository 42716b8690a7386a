//! Routes for the host alone: what the sandbox is to be, and when it is to end.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use buffa_types::google::protobuf::Timestamp;
use bytes::Bytes;
use http::{StatusCode, header};
use serde::Deserialize;

use super::Agent;
use super::error::HttpError;
use crate::init::identity::Identity;
use crate::init::marks::Marks;
use crate::init::persona::{Persona, PersonaError};
use crate::init::{clock, trust};
use crate::process::reaper::Exit;
use crate::process::{Chunk, Command, End, Event, Kind, Request, Streams};
use crate::settings::{Applied, Settings, Update};
use crate::{Role, log};

/// The longest that a benchmark may take.
const BENCHMARK_LIMIT: Duration = Duration::from_secs(60);

/// What the host says at each start. Members of the contract that mean nothing here are not read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InitRequest {
    access_token: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
    default_user: Option<String>,
    default_workdir: Option<String>,
    timestamp: Option<Timestamp>,
    hostname: Option<String>,
    nameservers: Option<Vec<IpAddr>>,
    sandbox_id: Option<String>,
    ca_bundle: Option<String>,
}

/// `POST /init`: applies what the host says, unless it has said something newer.
pub async fn init(State(agent): State<Arc<Agent>>, body: Bytes) -> Result<StatusCode, HttpError> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let request: InitRequest =
        serde_json::from_slice(body).map_err(|error| HttpError::bad_request(format!("body: {error}")))?;
    let (hostname, nameservers) = (request.hostname, request.nameservers.unwrap_or_default());
    let identity = Identity::new(hostname, nameservers).map_err(|error| HttpError::bad_request(error.to_string()))?;
    let timestamp = request.timestamp.clone();
    let authority = request.ca_bundle.filter(|pem| !pem.is_empty());
    let envs = match &authority {
        Some(_) => request.env_vars.map(trust::environment),
        None => request.env_vars,
    };
    let applied = agent.settings.apply(Update {
        timestamp: request.timestamp,
        token: request.access_token,
        envs,
        default_user: request.default_user,
        default_workdir: request.default_workdir,
    });
    // A program that is not PID 1 of a sandbox must not rename or reset the machine that it runs on.
    if (applied, agent.role) == (Applied::Yes, Role::Init) {
        if let Some(time) = timestamp {
            clock::follow(&time).map_err(|error| HttpError::internal(&error))?;
        }
        let marks = Marks::of(&agent.settings.current().envs);
        let persona = Persona { identity, sandbox_id: request.sandbox_id, marks };
        let write = move || {
            agent.assumed.assume(persona)?;
            authority.as_deref().map_or(Ok(()), trust::believe).map_err(PersonaError::failed("believe an authority"))
        };
        let write = tokio::task::spawn_blocking(write).await;
        write.map_err(|error| HttpError::internal(&error))?.map_err(|error| HttpError::internal(&error))?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What the host says every minute.
#[derive(Debug, Deserialize)]
struct ClockRequest {
    timestamp: Timestamp,
}

/// `POST /clock`: what time it is. Changes nothing else, unlike `/init`.
pub async fn set_clock(State(agent): State<Arc<Agent>>, body: Bytes) -> Result<StatusCode, HttpError> {
    let request: ClockRequest =
        serde_json::from_slice(&body).map_err(|error| HttpError::bad_request(format!("body: {error}")))?;
    match agent.role {
        Role::Init => clock::follow(&request.timestamp).map_err(|error| HttpError::internal(&error))?,
        Role::Service => return Err(HttpError::new(StatusCode::NOT_FOUND, "not PID 1: the clock is not ours to set")),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /sync`: all that was written is on the disk when this answers.
pub async fn sync() -> Result<StatusCode, HttpError> {
    tokio::task::spawn_blocking(rustix::fs::sync).await.map_err(|error| HttpError::internal(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /shutdown`: begins the orderly end of the system. The answer comes before it.
pub async fn shutdown(State(agent): State<Arc<Agent>>) -> Result<StatusCode, HttpError> {
    match agent.role {
        Role::Init => {
            agent.shutdown.notify_one();
            Ok(StatusCode::NO_CONTENT)
        }
        Role::Service => Err(HttpError::new(StatusCode::NOT_FOUND, "not PID 1: there is no system to shut down")),
    }
}

/// How often to start what.
#[derive(Debug, Deserialize)]
pub struct BenchmarkQuery {
    #[serde(default = "default_count")]
    count: u32,
    #[serde(default = "default_cmd")]
    cmd: String,
}

fn default_count() -> u32 {
    20
}

fn default_cmd() -> String {
    "/bin/true".to_owned()
}

/// `GET /benchmark/spawn`: how long an ordinary program in this sandbox takes to start another one and wait for it.
pub async fn benchmark_spawn(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<BenchmarkQuery>,
) -> Result<Response, HttpError> {
    if !(1..=1000).contains(&query.count) {
        return Err(HttpError::bad_request("count must be between 1 and 1000"));
    }
    // In a program of its own, because the children of this one belong to the reaper.
    let args = vec!["benchmark".to_owned(), query.count.to_string(), query.cmd];
    let request = Request {
        command: Command { cmd: "/proc/self/exe".to_owned(), args, ..Command::default() },
        user: "root".to_owned(),
        tag: None,
        streams: Streams::Output,
        deadline: Some(Instant::now() + BENCHMARK_LIMIT),
    };
    let started = agent.processes.start(request, Arc::new(Settings::default())).await;
    let mut events = started.map_err(|error| HttpError::internal(&error))?.events;
    let (mut report, mut complaint) = (Vec::new(), Vec::new());
    let end = loop {
        match events.next().await {
            Event::Output(Chunk { kind: Kind::Stderr, bytes, .. }) => complaint.extend_from_slice(&bytes),
            Event::Output(Chunk { bytes, .. }) => report.extend_from_slice(&bytes),
            Event::Lost(_) => {}
            Event::End(how) => break how,
        }
    };
    if end != End::Exited(Exit::Code(0)) {
        let complaint = String::from_utf8_lossy(&complaint).into_owned();
        log::line(format_args!("benchmark failed: {}", complaint.trim_end()));
        return Err(HttpError::bad_request(complaint));
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], report).into_response())
}
