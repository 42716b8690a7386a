//! Routes for the host alone, around a capture of the system: hold still before it, and go on after it, perhaps
//! elsewhere, later, and as somebody else. In between the agent refuses everybody but the host.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use rustix::time::{ClockId, Timespec, clock_settime};
use serde::Deserialize;

use super::Agent;
use super::control::InitRequest;
use super::error::HttpError;
use crate::Role;
use crate::init::identity::{self, Identity};
use crate::init::{boot_id, entropy, freeze, machine_id};
use crate::settings::Update;

/// The connection on which this is answered is not to be used again: its other end may be gone when the system goes on.
const LAST_ANSWER: [(header::HeaderName, &str); 1] = [(header::CONNECTION, "close")];

/// `POST /settle`: what is then captured is small.
pub async fn settle(State(agent): State<Arc<Agent>>) -> Result<StatusCode, HttpError> {
    blocking(agent.role, freeze::settle).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /freeze`: user traffic is refused and user processes stand from now on, until `POST /restore`.
pub async fn freeze(State(agent): State<Arc<Agent>>) -> Result<impl IntoResponse, HttpError> {
    let before = agent.settings.seal();
    if let Err(error) = blocking(agent.role, freeze::freeze).await {
        agent.settings.unseal(before);
        return Err(error);
    }
    Ok((StatusCode::NO_CONTENT, LAST_ANSWER))
}

/// What a system needs to go on. Unlike at its first start, nothing of it may be older than what it knows: it stood
/// still, so what the host says now is what counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RestoreRequest {
    /// Random bytes, base64.
    entropy: String,
    /// In the place of the kernel's own, where a twin may have read that.
    boot_id: Option<String>,
    #[serde(flatten)]
    identity: InitRequest,
}

/// `POST /restore`: all that must be true before user code runs again, and then it runs.
pub async fn restore(State(agent): State<Arc<Agent>>, body: Bytes) -> Result<StatusCode, HttpError> {
    let bad = |error: &dyn std::fmt::Display| HttpError::bad_request(format!("body: {error}"));
    let request: RestoreRequest = serde_json::from_slice(&body).map_err(|error| bad(&error))?;
    let random = STANDARD.decode(&request.entropy).map_err(|error| bad(&error))?;
    if random.is_empty() || random.len() > entropy::LIMIT {
        return Err(HttpError::bad_request(format!("entropy must have 1 to {} bytes", entropy::LIMIT)));
    }
    if request.boot_id.as_deref().is_some_and(|id| !boot_id::is_valid(id)) {
        return Err(HttpError::bad_request("bootId must be a UUID"));
    }
    let own_boot_id = request.boot_id;
    let InitRequest { hostname, nameservers, sandbox_id, timestamp, access_token, env_vars, .. } = request.identity;
    let identity = Identity::new(hostname, nameservers.unwrap_or_default()).map_err(|error| bad(&error))?;
    blocking(agent.role, move || {
        if let Some(time) = timestamp {
            clock_settime(ClockId::Realtime, Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() })?;
        }
        entropy::reseed(&random)?;
        identity::assume(&identity)?;
        own_boot_id.map_or(Ok(()), |id| boot_id::assume(&id))?;
        sandbox_id.map_or(Ok(()), |id| machine_id::assume(&id))
    })
    .await?;
    agent.settings.apply(Update {
        timestamp: None,
        token: access_token,
        envs: env_vars,
        default_user: request.identity.default_user,
        default_workdir: request.identity.default_workdir,
    });
    blocking(agent.role, freeze::thaw).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Does what changes the system, if the system is ours.
async fn blocking(role: Role, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), HttpError> {
    if role != Role::Init {
        return Ok(());
    }
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| HttpError::internal(&error))?;
    done.map_err(|error| HttpError::internal(&error))
}
