//! Traffic for ports of guests: requests whose Host or headers name a sandbox and a port go there and nowhere near the
//! API. Whoever knows a sandbox's id may reach its ports; a private sandbox's callers also need its token.
//!
//! One of the ports is the guest agent's own; `guest` says who may call it, and `signature` which addresses of files are
//! good by themselves.
//!
//! `target` says whose a request is, `refusal` how one is turned down, `forward` carries it, `upgrade` what it becomes.
//! Each request has a connection of its own to the guest, through the host agent: none is ever used for two sandboxes,
//! or for two states of one.

mod connections;
mod forward;
mod guest;
mod headers;
mod location;
mod progress;
mod refusal;
mod secured;
mod signature;
mod target;
mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use http::Version;
use http::header::{CONNECTION, HeaderValue};
use jiff::Timestamp;
use tower::{Service, ServiceExt};

use crate::api::{Drain, KnownHosts, method_label};
use crate::config::GuestPatience;
use crate::host::HostAgent;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::store::{Sandbox, Store, TrafficToken};
pub use connections::Connections;
pub use guest::PORT as GUEST_PORT;
use refusal::{Dialect, Refusal};
pub use secured::Secured;
use signature::Signed;
use target::Target;

/// The route by which traffic is counted.
const ROUTE: &str = "sandbox port";

/// How exact the record of the last use is: traffic may be a hundred requests a second.
const USE_RECORDED_MS: i64 = 1000;

/// What a private sandbox's token comes in.
const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";

/// What traffic needs of the control plane.
pub struct Proxy {
    /// The records.
    pub store: Store,
    /// What wakes paused sandboxes.
    pub lifecycle: Lifecycle,
    /// Where sandboxes run.
    pub host: HostAgent,
    /// What is counted.
    pub metrics: Metrics,
    /// The names of the API itself.
    pub known_hosts: KnownHosts,
    /// The server's end.
    pub drain: Drain,
    /// How many connections each sandbox has.
    pub connections: Connections,
    /// How long guests may be silent.
    pub patience: GuestPatience,
    /// How servers in guests are spoken with that speak TLS.
    pub secured: Secured,
}

/// The whole of what an address answers: traffic, and the API.
#[derive(Clone)]
pub struct Front<S> {
    proxy: Arc<Proxy>,
    api: S,
}

impl<S> Front<S> {
    /// Traffic goes to `proxy`, everything else to `api`.
    pub fn new(proxy: Proxy, api: S) -> Self {
        Self { proxy: Arc::new(proxy), api }
    }
}

impl<S> Service<Request> for Front<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match target::of(request.uri(), request.headers(), &self.proxy.known_hosts) {
            Some(target) => {
                let proxy = self.proxy.clone();
                Box::pin(async move { Ok(proxy.answer(target, request).await) })
            }
            None if guest::is_signed(request.uri()) => {
                let proxy = self.proxy.clone();
                Box::pin(async move {
                    let target = proxy.signer(&Signed::of(request.method(), request.uri())).await;
                    Ok(proxy.answer(target, request).await)
                })
            }
            None => Box::pin(self.api.clone().oneshot(request)),
        }
    }
}

impl Proxy {
    /// Answers a request for a sandbox, and counts it.
    async fn answer(self: Arc<Self>, target: Result<Target, Refusal>, request: Request) -> Response {
        let began = Instant::now();
        let method = method_label(request.method());
        let (dialect, version) = (Dialect::of(request.headers()), request.version());
        let addressed = target.as_ref().ok().map(|target| (target.id.clone(), target.port));
        let answered = match target {
            Ok(target) => self.pass(target, request).await,
            Err(refusal) => Err(refusal),
        };
        let response = answered.unwrap_or_else(|refusal| {
            let mut response = refusal.into_response(dialect, addressed.as_ref());
            if self.drain.asked.is_cancelled() && version < Version::HTTP_2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
        let (status, took) = (response.status().as_u16(), began.elapsed());
        self.metrics.request(method, ROUTE, status, took);
        if let Some((sandbox, port)) = addressed {
            tracing::debug!(%sandbox, port, method, status, ?took, "traffic");
        }
        response
    }

    /// The way of a request: what is cheap is checked first, and nothing is woken for whoever may not pass.
    async fn pass(&self, target: Target, request: Request) -> Result<Response, Refusal> {
        // Before the look at the token: whoever waits for the tasks after it was set also waits for this one.
        let task = self.drain.tasks.token();
        if self.drain.asked.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        if target.port == guest::PORT {
            return tokio::select! {
                passed = self.call_guest(target, request, task) => passed,
                () = self.drain.over.cancelled() => Err(Refusal::Stopping),
            };
        }
        if target.is_reserved() {
            return Err(Refusal::Reserved);
        }
        let sandbox = self.store.get_of_anyone(&target.id).await?.ok_or(Refusal::NotFound)?;
        check_token(&sandbox, request.headers().get(TRAFFIC_TOKEN))?;
        let place = self.connections.take(&target.id).ok_or(Refusal::TooMany(connections::LIMIT))?;
        let passing = async {
            let sandbox = self.lifecycle.reachable(&target.id).await?;
            self.record_use(&sandbox).await;
            forward::forward(self, &target, &sandbox, request, (place, task)).await
        };
        tokio::select! {
            passed = passing => passed,
            () = self.drain.over.cancelled() => Err(Refusal::Stopping),
        }
    }

    /// No use fails because it could not be recorded.
    async fn record_use(&self, sandbox: &Sandbox) {
        let recorded = sandbox.last_active_at.map_or(0, Timestamp::as_millisecond);
        if (Timestamp::now().as_millisecond() - recorded).abs() < USE_RECORDED_MS {
            return;
        }
        if let Err(error) = self.store.touch(&sandbox.owner, &sandbox.id).await {
            tracing::warn!(sandbox = %sandbox.id, error = &error as &dyn std::error::Error, "use not recorded");
        }
    }
}

fn check_token(sandbox: &Sandbox, given: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(wanted) = &sandbox.traffic_token else { return Ok(()) };
    let given = given.ok_or(Refusal::TokenMissing)?;
    let given = given.to_str().ok().and_then(|text| text.parse::<TrafficToken>().ok());
    if given.is_some_and(|token| wanted.is_of(&token)) { Ok(()) } else { Err(Refusal::TokenWrong) }
}
