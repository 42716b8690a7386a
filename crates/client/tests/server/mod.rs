//! A server on a port of its own that answers as a test says.

use axum::Router;
use client::Client;

/// Serves `routes` until the test's runtime ends, and returns a client for it.
pub async fn serve(routes: Router) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    client
}

/// The JSON of a sandbox in `status`.
#[allow(dead_code, reason = "not every test binary needs one")]
pub fn sandbox(id: &str, status: &str) -> serde_json::Value {
    serde_json::json!({
        "id": id, "status": status, "template": "minimal", "vcpus": 1, "memory_mb": 512, "timeout_sec": 300,
        "host_ip": "10.11.0.1", "created_at": "2026-01-01T00:00:00Z", "last_updated": "2026-01-01T00:00:00Z",
    })
}
