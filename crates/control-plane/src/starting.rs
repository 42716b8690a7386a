//! What the REST API's address answers before there is a control plane: templates may take minutes to build, and whoever
//! asks meanwhile should neither hang nor believe that nobody is there.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, identify};

/// For a client that is in the middle of asking. One that never comes to an end must not hold up the start.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers every request with 503 until it is stopped.
#[derive(Debug)]
pub struct Starting {
    stop: CancellationToken,
    serving: JoinHandle<io::Result<()>>,
}

impl Starting {
    /// Begins. The listener stays the caller's: what connects after [`Self::stop`] waits for the control plane.
    pub fn answer(listener: &TcpListener) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
        let listener = TcpListener::from_std(listener)?;
        let stop = CancellationToken::new();
        let serve = axum::serve(listener, Router::new().fallback(unavailable).layer(from_fn(identify)));
        let serve = serve.with_graceful_shutdown(stop.clone().cancelled_owned());
        Ok(Self { stop, serving: tokio::spawn(async move { serve.await }) })
    }

    /// Ends, once those that were being answered have their answer.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Its failure would show again at once, with the control plane on the same listener.
        if tokio::time::timeout(PATIENCE, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

async fn unavailable() -> Response {
    let message = "the server is starting; its log says what it is waiting for";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_too_early_is_told_so_and_the_address_is_free_for_the_control_plane_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let starting = Starting::answer(&listener).unwrap();
        let answer = reqwest::get(&url).await.unwrap();
        assert_eq!(answer.status().as_u16(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = answer.json::<serde_json::Value>().await.unwrap();
        assert_eq!(
            (body["error"]["code"].as_str(), body["request_id"].as_str()),
            (Some("starting"), Some(id.as_str()))
        );
        starting.stop().await;

        let serving = tokio::spawn(async move { axum::serve(listener, Router::new().fallback(async || "up")).await });
        assert_eq!(reqwest::get(&url).await.unwrap().text().await.unwrap(), "up");
        serving.abort();
    }
}
