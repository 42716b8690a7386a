//! Guest streams: HTTP requests passed to the agent inside a sandbox and its answers back, byte by byte, so that
//! output, files and terminals never have to fit into a message.
//!
//! Only routes that are meant for callers pass. The guest agent's control routes (`/init` and the like) are the host
//! agent's own; a path that merely looks like an allowed one after decoding is not one.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use connectrpc::ConnectError;
use http::{HeaderMap, HeaderName, Uri, Version, header};

use super::drain::Holding;
use super::error::IntoConnect;
use crate::HostAgent;

/// Routes of the guest agent that callers may use, besides the services.
const ROUTES: [&str; 5] = ["/files", "/files/compose", "/envs", "/metrics", "/health"];
const SERVICES: [&str; 3] = ["/process.Process/", "/filesystem.Filesystem/", "/session.Session/"];

/// Headers that concern one connection and not the message.
const HOP_BY_HOP: [HeaderName; 6] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::TE, header::TRAILER, header::UPGRADE, header::HOST];

pub(super) fn router(agent: Arc<HostAgent>) -> Router {
    Router::new().route("/sandboxes/{id}/guest/{*path}", any(forward)).with_state(agent)
}

async fn forward(
    State(agent): State<Arc<HostAgent>>,
    Path((id, _)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refusal> {
    let id = id.parse().map_err(|error: model::InvalidId| Refusal(error.into_connect()))?;
    let target: Uri = target_of(request.uri().path_and_query().map_or("", |path| path.as_str()))
        .and_then(|target| target.parse().ok())
        .ok_or_else(|| Refusal(ConnectError::not_found("the guest agent has no such route for callers")))?;
    let using = agent.sandboxes.use_guest(&id).await.map_err(|error| Refusal(error.into_connect()))?;
    let (mut parts, body) = request.into_parts();
    parts.uri = target;
    parts.version = Version::HTTP_11;
    remove_hop_by_hop(&mut parts.headers);
    let answer = using.guest.forward(Request::from_parts(parts, body)).await;
    let mut answer = answer.map_err(|error| Refusal(error.into_connect()))?;
    remove_hop_by_hop(answer.headers_mut());
    // As long as it is being sent the sandbox is in use.
    Ok(answer.map(|body| Body::new(Holding::new(body, using.busy))))
}

/// The guest agent's path and query, if callers may ask for it. Compared as sent, so that nothing hides in an encoding.
fn target_of(path_and_query: &str) -> Option<&str> {
    let (_, rest) = path_and_query.strip_prefix("/sandboxes/")?.split_once("/guest")?;
    let path = rest.split('?').next()?;
    let is_method = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_allowed =
        ROUTES.contains(&path) || SERVICES.iter().any(|service| path.strip_prefix(service).is_some_and(is_method));
    is_allowed.then_some(rest)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// An error of the host agent itself, in the form of a unary Connect error.
pub(super) struct Refusal(pub ConnectError);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (self.0.http_status(), json, self.0.to_json()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_for_callers_pass() {
        let check = |path: &str, expect: Option<&str>| assert_eq!(target_of(path), expect, "{path}");
        check("/sandboxes/sb1/guest/files?path=/a%2Fb", Some("/files?path=/a%2Fb"));
        check("/sandboxes/sb1/guest/process.Process/Start", Some("/process.Process/Start"));
        check("/sandboxes/guest/guest/health", Some("/health"));
        for hidden in [
            "init",
            "%69nit",
            "/init",
            "./init",
            "files/../init",
            "files/%2e%2e/init",
            "shutdown",
            "sync",
            "benchmark/spawn",
            "process.Process/../init",
            "process.Process/",
            "files/",
            "",
        ] {
            check(&format!("/sandboxes/sb1/guest/{hidden}"), None);
        }
    }
}
