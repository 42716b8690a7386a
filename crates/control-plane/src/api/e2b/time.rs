//! How long sandboxes have, and waking those whose time was over.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::{Extent, OwnerId, SandboxId, Status};
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::error::{in_the_way, no_sandbox, told};
use super::sandboxes::{Named, find, find_to_change, optional_body};
use super::view::SandboxView;
use crate::lifecycle::LifecycleError;
use crate::store::{Sandbox, Shift};

/// The longest time that can be asked for at once.
const MOST_HOURS: i64 = 30 * 24;

const CONNECT: i64 = 300;
const RESUME: i64 = 15;
const REFRESH: i64 = 15;

/// How long a sandbox in transition is waited for.
const PATIENCE: Duration = Duration::from_secs(50);

/// Other processes may change records in the same database.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A time that a sandbox can have.
pub fn positive(seconds: i64) -> Result<Duration, ApiError> {
    match bounded(seconds)? {
        Duration::ZERO => Err(ApiError::invalid_request("Timeout must be greater than 0")),
        time => Ok(time),
    }
}

/// The same, where none left means now.
fn bounded(seconds: i64) -> Result<Duration, ApiError> {
    if seconds > MOST_HOURS * 3600 {
        return Err(ApiError::invalid_request(format!("Timeout cannot be greater than {MOST_HOURS} hours")));
    }
    Ok(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[derive(Deserialize)]
struct ConnectRequest {
    timeout: Option<i64>,
    memory: Option<bool>,
}

impl ConnectRequest {
    fn from(&self) -> Extent {
        if self.memory == Some(false) { Extent::Disk } else { Extent::Full }
    }
}

pub async fn connect(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let request: ConnectRequest = optional_body(&api, body).await?;
    let time = positive(request.timeout.unwrap_or(CONNECT))?;
    let (status, sandbox) = api.running_for(&owner, &id, time, request.from()).await?;
    Ok(json(status, &SandboxView::new(&api, &sandbox)?))
}

pub async fn resume(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<Response, ApiError> {
    let request: ConnectRequest = optional_body(&api, body).await?;
    let time = positive(request.timeout.unwrap_or(RESUME))?;
    match api.running_for(&owner, &id, time, request.from()).await? {
        (StatusCode::OK, _) => Err(in_the_way(&id, Status::Running)),
        (status, sandbox) => Ok(json(status, &SandboxView::new(&api, &sandbox)?)),
    }
}

impl Api {
    /// The sandbox, running for at least so long: 201 where it had to be resumed.
    async fn running_for(
        &self,
        owner: &OwnerId,
        id: &SandboxId,
        time: Duration,
        from: Extent,
    ) -> Result<(StatusCode, Sandbox), ApiError> {
        let end = Instant::now() + PATIENCE;
        let mut news = self.store.news();
        loop {
            // Seen before the record is read, so that what comes after it is not missed.
            news.mark_unchanged();
            let sandbox = find_to_change(self, owner, id).await?;
            let told = |error| told(id, error);
            match sandbox.status {
                Status::Running | Status::Snapshotting => {
                    let sandbox = self.lifecycle.set_time(owner, id, time, Shift::Later).await.map_err(told)?;
                    return Ok((StatusCode::OK, sandbox));
                }
                Status::Paused | Status::Stopped => {
                    self.lifecycle.set_time(owner, id, time, Shift::Any).await.map_err(told)?;
                    match self.lifecycle.resume_from(owner.clone(), id.clone(), from).await {
                        Ok(sandbox) => return Ok((StatusCode::CREATED, sandbox)),
                        // Somebody else resumes it, or ends it.
                        Err(LifecycleError::Race(_) | LifecycleError::Illegal(_)) => {}
                        Err(error) => return Err(told(error)),
                    }
                }
                Status::Pending | Status::Pausing | Status::Resuming if Instant::now() < end => {}
                other => return Err(in_the_way(id, other)),
            }
            // Neither the end of the time nor that of the sender matters: there is another look.
            let _ = timeout(LOOK_AGAIN, news.changed()).await;
        }
    }
}

#[derive(Deserialize)]
struct TimeoutRequest {
    timeout: i64,
}

pub async fn set(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let request: TimeoutRequest = optional_body(&api, body).await?;
    shift(&api, &owner, &id, bounded(request.timeout)?, Shift::Any).await
}

#[derive(Deserialize)]
struct RefreshRequest {
    duration: Option<i64>,
}

pub async fn refresh(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(id): Named,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let request: RefreshRequest = optional_body(&api, body).await?;
    let time = bounded(request.duration.unwrap_or(REFRESH).max(REFRESH))?;
    shift(&api, &owner, &id, time, Shift::Later).await
}

async fn shift(
    api: &Api,
    owner: &OwnerId,
    id: &SandboxId,
    time: Duration,
    shift: Shift,
) -> Result<StatusCode, ApiError> {
    match find(api, owner, id).await?.status {
        Status::Running | Status::Snapshotting | Status::Resuming | Status::Pending => {}
        Status::Missing | Status::Error => return Err(no_sandbox(id.as_str())),
        other => return Err(in_the_way(id, other)),
    }
    api.lifecycle.set_time(owner, id, time, shift).await.map_err(|error| told(id, error))?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_limits_and_clients_know_the_words() {
        let message = |seconds| positive(seconds).unwrap_err().into_message();
        assert_eq!(positive(1).unwrap(), Duration::from_secs(1));
        assert_eq!((message(0), message(-5)), (message(0), "Timeout must be greater than 0".to_owned()));
        assert_eq!(message(MOST_HOURS * 3600 + 1), "Timeout cannot be greater than 720 hours");
        assert_eq!(bounded(-5).unwrap(), Duration::ZERO);
    }
}
