//! Ports of the fake's guests: services of the test on loopback, joined as a real host agent joins them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connectrpc::{ConnectError, ErrorCode};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::fake_host::FakeHost;

pub fn routes(host: Arc<FakeHost>) -> Router {
    Router::new().route("/sandboxes/{id}/ports/{port}", get(open)).with_state(host)
}

async fn open(
    State(host): State<Arc<FakeHost>>,
    Path((id, port)): Path<(String, u16)>,
    mut request: Request,
) -> Response {
    if let Err(failure) = host.enter("port", &id).await {
        return refuse(failure);
    }
    if !host.runs(&id) {
        return refuse(ConnectError::failed_precondition("it does not run"));
    }
    let Some(address) = host.state().ports.get(&port).copied() else {
        return refuse(ConnectError::new(ErrorCode::Aborted, "nothing listens"));
    };
    let mut service = TcpStream::connect(address).await.unwrap();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut caller = TokioIo::new(upgrade.await.unwrap());
        host.update(|state| state.joined += 1);
        tokio::select! {
            _ = copy_bidirectional(&mut caller, &mut service) => {}
            () = host.stops(&id) => {}
        }
        host.update(|state| state.joined -= 1);
    });
    (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "sandpiper-port")]).into_response()
}

fn refuse(error: ConnectError) -> Response {
    (error.http_status(), error.to_json()).into_response()
}

impl FakeHost {
    fn runs(&self, id: &str) -> bool {
        self.state().sandboxes.get(id).is_some_and(|status| status == "running")
    }

    async fn stops(&self, id: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.runs(id) {
                return;
            }
            changed.await;
        }
    }
}
