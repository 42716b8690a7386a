//! Guest streams: HTTP requests passed to the agent inside a sandbox and its answers back, byte by byte, so that
//! output, files and terminals never have to fit into a message.
//!
//! Only routes that are meant for callers pass. The guest agent's control routes (`/init` and the like) are the host
//! agent's own; a path that merely looks like an allowed one after decoding is not one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use connectrpc::ConnectError;
use http::{HeaderMap, HeaderName, Uri, Version, header};
use http_body::{Frame, SizeHint};

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
    let answer = tokio::select! {
        answer = using.guest.forward(Request::from_parts(parts, body)) => answer,
        // A guest that is gone says nothing any more.
        () = using.presence.clone().ended() => {
            return Err(Refusal(ConnectError::failed_precondition("the sandbox does not run any more")));
        }
    };
    let mut answer = answer.map_err(|error| Refusal(error.into_connect()))?;
    remove_hop_by_hop(answer.headers_mut());
    // As long as it is being sent the sandbox is in use; whoever reads it hears at once when the sandbox ends.
    let answer = answer.map(|body| Body::new(Ending { body, ended: Box::pin(using.presence.ended()) }));
    Ok(answer.map(|body| Body::new(Holding::new(body, using.busy))))
}

/// An answer of a guest, which breaks off when its sandbox does not run any more.
struct Ending {
    body: Body,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        ready!(self.ended.as_mut().poll(context));
        Poll::Ready(Some(Err(axum::Error::new("the sandbox has ended"))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_answer_breaks_off_when_its_sandbox_ends() {
        let (end, ended) = oneshot::channel::<()>();
        let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let ending = Ending { body, ended: Box::pin(async move { drop(ended.await) }) };
        let reading = tokio::spawn(axum::body::to_bytes(Body::new(ending), 10));
        tokio::task::yield_now().await;
        assert!(!reading.is_finished());
        end.send(()).unwrap();
        assert!(reading.await.unwrap().is_err());
    }

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
