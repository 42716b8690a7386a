//! The network between control plane and host agent: it loses calls, doubles them, delays them past one another, and is
//! cut. What the host agent answers goes through its real edge, over bytes.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::body::Bytes;
use connectrpc::ConnectError;
use connectrpc::client::ClientBody;
use control_plane::{InProcess, in_process};
use futures::{StreamExt, stream};
use host_agent::service::InProcess as Answering;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use crate::world::{Life, World};

/// The host agent that can be called now, if one can.
pub type Callee = Arc<Mutex<Option<(Life, Answering)>>>;

/// The way by which one control plane calls.
#[derive(Clone)]
struct Line {
    world: World,
    caller: Life,
    callee: Callee,
}

/// The longest that a late message takes.
const LATE_MS: u64 = 30_000;

/// What carries a control plane's calls.
pub fn line(world: World, caller: Life, callee: Callee) -> InProcess {
    let line = Line { world, caller, callee };
    in_process(move |request| {
        let line = line.clone();
        async move { line.carry(request).await }
    })
}

impl Line {
    async fn carry(&self, request: Request<ClientBody>) -> Result<Response<Body>, ConnectError> {
        let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        self.pass(&format!("call.{call}")).await;
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        self.travel().await;
        let weather = self.world.state().weather;
        if weather.is_cut || self.world.happens(weather.lost) {
            return Err(broken("the call is lost"));
        }
        if self.world.happens(weather.doubled) {
            self.again(parts.clone(), body.clone());
        }
        let answer = self.deliver(parts, body).await;
        self.travel().await;
        let weather = self.world.state().weather;
        let is_lost = weather.is_cut || self.world.happens(weather.lost);
        self.pass(&format!("answer.{call}")).await;
        match answer {
            Ok(_) if is_lost => Err(broken("the answer is lost")),
            other => other,
        }
    }

    async fn pass(&self, point: &str) {
        if !self.world.pass(&self.caller, point) {
            pending::<()>().await;
        }
    }

    async fn travel(&self) {
        let late = self.world.state().weather.late;
        let milliseconds = if self.world.happens(late) { self.world.below(LATE_MS) } else { self.world.below(3) };
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }

    /// The same call once more, later; nobody hears the answer.
    fn again(&self, parts: Parts, body: Bytes) {
        let line = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(line.world.below(LATE_MS))).await;
            line.world.note(format_args!("{} comes once more", parts.uri.path()));
            drop(line.deliver(parts, body).await);
        });
    }

    /// Lets the host agent answer. It goes on where the caller does not wait.
    async fn deliver(&self, parts: Parts, body: Bytes) -> Result<Response<Body>, ConnectError> {
        let callee = self.callee.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((life, host_agent)) = callee.filter(|(life, _)| !life.is_over()) else {
            return Err(broken("nobody listens"));
        };
        let (sender, receiver) = oneshot::channel();
        let request = Request::from_parts(parts, Body::from(body));
        tokio::spawn(async move {
            let answer = host_agent.answer(request).await;
            // The caller may be gone.
            let _ = sender.send(answer);
        });
        tokio::select! {
            answer = receiver => Ok(cut_with(life, answer.map_err(|_| broken("the host agent broke down"))?)),
            () = life.over.cancelled() => Err(broken("the host agent is gone")),
        }
    }
}

/// A body that breaks with the life of whoever sends it.
fn cut_with(life: Life, answer: Response<Body>) -> Response<Body> {
    let break_off = stream::iter([()]).filter_map({
        let life = life.clone();
        move |()| std::future::ready(life.is_over().then(|| Err(axum::Error::new(broken("the host agent is gone")))))
    });
    answer
        .map(|body| Body::from_stream(body.into_data_stream().take_until(life.over.cancelled_owned()).chain(break_off)))
}

fn broken(what: &'static str) -> ConnectError {
    ConnectError::unavailable_from_transport("the simulated network", std::io::Error::other(what))
}
