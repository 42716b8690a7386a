//! Whether this server can do its work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::error::ApiError;
use super::openapi::HealthErrors;
use super::request::json;

/// A local database that takes longer is as good as none.
const DATABASE: Duration = Duration::from_secs(3);

/// What the server and its host are.
#[derive(Serialize, ToSchema)]
struct Health {
    status: &'static str,
    version: &'static str,
    host_instance: String,
    host_version: String,
    accelerator: String,
    vmm_version: String,
    /// What keeps a guest in: `virtual_machine` beside the jail, or the `jail` alone, where there is no hardware
    /// virtualisation.
    security_boundary: &'static str,
    /// Layers of the jail that it does without on this host.
    lacking_jail_layers: Vec<String>,
    templates: Vec<String>,
}

/// Whether the server can do its work
///
/// 200 when the store and the host agent answer and the host's templates are built, else 503 with what is missing.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "getHealth",
    tag = "server",
    responses((status = 200, description = "It can", body = Health), HealthErrors)
)]
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
    if !host.building_templates.is_empty() {
        return Err(ApiError::starting(format!("templates are being built: {}", host.building_templates.join(", "))));
    }
    let health = Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        host_instance: host.instance_id,
        host_version: host.version,
        security_boundary: if host.accelerator == "kvm" { "virtual_machine" } else { "jail" },
        lacking_jail_layers: host.lacking_layers,
        accelerator: host.accelerator,
        vmm_version: host.vmm_version,
        templates: host.templates,
    };
    Ok(json(StatusCode::OK, &health))
}
