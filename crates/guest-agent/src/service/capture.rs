//! Routes for the host alone, before a capture of the system: be small, and hold still. From then on the agent refuses
//! everybody but the host, which makes it go on in [`super::restore`].

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::{StatusCode, header};

use super::Agent;
use super::error::HttpError;
use crate::Role;
use crate::init::freeze;

/// The connection on which this is answered is not to be used again: its other end may be gone when the system goes on.
const LAST_ANSWER: [(header::HeaderName, &str); 1] = [(header::CONNECTION, "close")];

/// `POST /settle`: what is then captured is small.
pub async fn settle(State(agent): State<Arc<Agent>>) -> Result<StatusCode, HttpError> {
    blocking(agent.role, freeze::settle).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /freeze`: user traffic is refused and user processes stand from now on, until
/// the host lets them go on.
pub async fn freeze(State(agent): State<Arc<Agent>>) -> Result<impl IntoResponse, HttpError> {
    let before = agent.settings.seal();
    if let Err(error) = blocking(agent.role, freeze::freeze).await {
        agent.settings.unseal(before);
        return Err(error);
    }
    Ok((StatusCode::NO_CONTENT, LAST_ANSWER))
}

/// Does what changes the system, if the system is ours.
async fn blocking(role: Role, work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), HttpError> {
    if role != Role::Init {
        return Ok(());
    }
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| HttpError::internal(&error))?;
    done.map_err(|error| HttpError::internal(&error))
}
