//! Whether this server can do its work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::request::json;

/// A local database that takes longer is as good as none.
const DATABASE: Duration = Duration::from_secs(3);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    host_instance: String,
    host_version: String,
    accelerator: String,
    vmm_version: String,
    templates: Vec<String>,
}

/// `GET /health`: 200 when the store and the host agent answer, else 503 with the one that does not.
pub async fn get(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let unavailable = |message| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message);
    match tokio::time::timeout(DATABASE, api.store.ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "database check failed");
            return Err(unavailable("the database does not answer"));
        }
        Err(_) => return Err(unavailable("the database does not answer in time")),
    }
    let host = api
        .host
        .describe()
        .await
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "host_unavailable", error.to_string()))?;
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        host_instance: host.instance_id,
        host_version: host.version,
        accelerator: host.accelerator,
        vmm_version: host.vmm_version,
        templates: host.templates,
    };
    Ok(json(StatusCode::OK, &health))
}
