//! Calls of a sandbox's owner to its guest agent itself, as clients of E2B make them: which routes there are for them, and
//! what they must show. Both is decided here, before anything is woken or asked; the guest agent obeys its host alone,
//! whose own token goes with what passes.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, Method, Uri, Version};
use jiff::Timestamp;
use model::SandboxId;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::progress::Progress;
use super::refusal::Refusal;
use super::signature::{Signed, Unsigned};
use super::target::{Named, Target};
use super::{Proxy, connections, headers};
use crate::listen::body::Guarded;
use crate::listen::{Scheme, Unhurried};
use crate::store::{GuestAccess, KeptToken, Sandbox};

/// The guest agent's port for its callers.
pub const PORT: u16 = 49983;

/// What callers show.
const ACCESS_TOKEN: &str = "x-access-token";

const ROUTES: [&str; 5] = [HEALTH, FILES, COMPOSE, "/envs", "/metrics"];
const HEALTH: &str = "/health";
const FILES: &str = "/files";
const COMPOSE: &str = "/files/compose";
const SERVICES: [&str; 2] = ["/process.Process/", "/filesystem.Filesystem/"];

/// Calls that answer when all is done, which takes as long as there is much to do, or as long as a process does not read.
const LONG: [&str; 7] = [
    FILES,
    COMPOSE,
    "/filesystem.Filesystem/ListDir",
    "/filesystem.Filesystem/Move",
    "/filesystem.Filesystem/Remove",
    "/process.Process/SendInput",
    "/process.Process/StreamInput",
];

/// Whether callers may ask for a path. It is compared as it was sent, so that nothing hides in an encoding.
fn is_for_callers(path: &str) -> bool {
    let is_method = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    ROUTES.contains(&path) || SERVICES.iter().any(|service| path.strip_prefix(service).is_some_and(is_method))
}

/// Whether a request is for a file, signed, and says nothing of which sandbox it means.
pub fn is_signed(uri: &Uri) -> bool {
    uri.path() == FILES && Signed::of(&Method::GET, uri).has_signature()
}

impl Proxy {
    /// The way of a call to a guest agent.
    pub(super) async fn call_guest(
        &self,
        target: Target,
        request: Request,
        task: TaskTrackerToken,
    ) -> Result<Response, Refusal> {
        if !is_for_callers(request.uri().path()) {
            return Err(Refusal::NoRoute(request.uri().path().to_owned()));
        }
        let sandbox = self.store.get_of_anyone(&target.id).await?.ok_or(Refusal::NotFound)?;
        self.admit(&sandbox, &request)?;
        let place = self.connections.take(&target.id).ok_or(Refusal::TooMany(connections::LIMIT))?;
        let sandbox = self.lifecycle.reachable(&target.id).await?;
        self.record_use(&sandbox).await;
        let patience = if LONG.contains(&request.uri().path()) { self.patience.service } else { self.patience.agent };
        let (progress, request) = Progress::of(for_guest(request));
        let answer = progress.answered(patience, self.host.call_guest(&target.id, request)).await;
        let answer = match answer.ok_or(Refusal::Silent)? {
            Ok(answer) => answer,
            Err(error) => return Err(self.unanswered(&target.id, error.into()).await),
        };
        let (mut parts, body) = answer.into_parts();
        headers::remove_hop_by_hop(&mut parts.headers);
        parts.extensions.insert(Unhurried);
        Ok(Response::from_parts(parts, Body::new(Guarded::new(Body::new(body), (place, task)))))
    }

    /// Why a guest agent was not reached that could be a moment ago: what became of its sandbox says more than its host.
    async fn unanswered(&self, id: &SandboxId, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Transitioning | Refusal::NotFound => {
                self.lifecycle.reachable(id).await.map_or_else(Refusal::from, |_| Refusal::Transitioning)
            }
            other => other,
        }
    }

    /// The sandbox with whose token a request for a file was signed.
    pub(super) async fn signer(&self, signed: &Signed) -> Result<Target, Refusal> {
        let tokens = self.store.access_tokens().await?;
        let (id, _) =
            tokens.into_iter().find(|(_, token)| signed.is_by(token)).ok_or(Refusal::Unsigned(Unsigned::Wrong))?;
        Ok(Target { id, port: PORT, named: Named::ByHeaders })
    }

    /// Whether the caller may do what it asks for.
    fn admit(&self, sandbox: &Sandbox, request: &Request) -> Result<(), Refusal> {
        let token = match &sandbox.guest_access {
            GuestAccess::Closed => return Err(Refusal::Reserved),
            GuestAccess::Open => return Ok(()),
            GuestAccess::Token(token) => token,
        };
        // What a browser asks before the call itself carries no proof.
        if request.method() == Method::OPTIONS || request.uri().path() == HEALTH {
            return Ok(());
        }
        match shown(token, request.headers()) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::WrongToken),
            None if request.uri().path() == FILES => self.check_signature(sandbox, request),
            None => Err(Refusal::NoToken),
        }
    }

    fn check_signature(&self, sandbox: &Sandbox, request: &Request) -> Result<(), Refusal> {
        let signed = Signed::of(request.method(), request.uri());
        let token = self.store.access_token(sandbox)?.ok_or(Refusal::Reserved)?;
        signed.check(&token, Timestamp::now()).map_err(Refusal::Unsigned)
    }
}

/// Whether the token that a caller shows is the right one; none where it shows none.
fn shown(token: &KeptToken, headers: &HeaderMap) -> Option<bool> {
    headers.get(ACCESS_TOKEN).map(|given| token.is(given.as_bytes()))
}

fn for_guest(request: Request) -> Request {
    let (mut parts, body) = request.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::for_guest(&mut parts.headers, None, None, Scheme::Http);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Request::from_parts(parts, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_for_callers_pass() {
        for path in ["/health", "/files", "/files/compose", "/process.Process/Start", "/filesystem.Filesystem/WatchDir"]
        {
            assert!(is_for_callers(path), "{path}");
        }
        for path in [
            "/init",
            "/%69nit",
            "//init",
            "/./init",
            "/files/../init",
            "/clock",
            "/sync",
            "/freeze",
            "/settle",
            "/shutdown",
            "/benchmark/spawn",
            "/process.Process/",
            "/process.Process/../init",
            "/session.Session/Output",
            "/",
        ] {
            assert!(!is_for_callers(path), "{path}");
        }
    }

    #[test]
    fn a_signed_address_of_a_file_is_told_from_others() {
        assert!(is_signed(&Uri::from_static("/files?path=a&signature=v1_x")));
        for other in ["/files?path=a", "/v1/files?signature=x", "/files/?signature=x"] {
            assert!(!is_signed(&Uri::from_static(other)), "{other}");
        }
    }
}
