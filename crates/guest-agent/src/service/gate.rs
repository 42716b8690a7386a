//! Who may pass to which routes.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};

use super::Agent;
use super::error::HttpError;
use crate::auth::{self, Refusal};
use crate::settings::Settings;

/// Control routes do not exist for anybody but the host.
pub async fn only_the_host(
    State(agent): State<Arc<Agent>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if peer.ip().to_canonical() == agent.control_peer {
        return next.run(request).await;
    }
    HttpError::new(StatusCode::NOT_FOUND, "not found").into_response()
}

/// The other routes ask for the access token, as soon as there is one.
pub async fn only_with_token(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    match check(&agent.settings.current(), token_of(request.headers())) {
        Ok(()) => next.run(request).await,
        Err(refusal) => HttpError::from(refusal).into_response(),
    }
}

/// Whether somebody with this token may call.
pub fn check(settings: &Settings, given: Option<&[u8]>) -> Result<(), Refusal> {
    match (&settings.token, settings.initialised) {
        (_, false) => Err(Refusal::NotInitialised),
        (None, true) => Ok(()),
        (Some(token), true) => auth::check_token(token, given),
    }
}

/// The token that came with a request.
pub fn token_of(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("x-access-token").map(|value| value.as_bytes())
}
