//! The REST API: one file for each resource. Converts requests to calls and results to answers, and decides nothing.
//!
//! Knows nothing of SQL and of generated messages.

mod auth;
mod benchmark;
mod directory;
mod disk;
mod docs;
mod drain;
mod e2b;
mod egress_proxy;
mod error;
mod events;
mod exec;
mod exec_stream;
mod files;
mod footprint;
mod fork;
mod guard;
mod health;
mod idempotency;
mod list;
mod metrics;
mod network;
mod on_path;
mod openapi;
mod origin;
mod ping;
mod process_output;
mod processes;
mod reconciler;
mod request;
mod request_headers;
mod sandbox_metrics;
mod sandboxes;
mod snapshots;
mod stats;
mod surface;
mod terminal;
mod utf8;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, Uri};
use model::{HostId, OwnerId, SandboxId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::{ClientPatience, Limits};
use crate::domain::Domain;
use crate::host::HostAgent;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::reconcile::Report;
use crate::retention::Retainer;
use crate::store::{Sandbox, Store};
pub use drain::Drain;
pub use error::ApiError;
pub use guard::KnownHosts;
pub use request::{identify, method_label};
use surface::Surface;

/// What every handler works with.
pub struct Api {
    /// The records.
    pub store: Store,
    /// Where sandboxes run.
    pub host: HostAgent,
    /// The name of that host in the records.
    pub host_id: HostId,
    /// What changes a sandbox's state.
    pub lifecycle: Lifecycle,
    /// What knows what is not kept any longer.
    pub retainer: Retainer,
    /// How the comparison of records and host goes.
    pub reconciler: watch::Receiver<Report>,
    /// What is counted.
    pub metrics: Metrics,
    /// What one request may use.
    pub limits: Limits,
    /// Whose names sandboxes' ports have.
    pub domain: Option<Domain>,
    /// How long clients may take.
    pub patience: ClientPatience,
    /// What must be done before the server may end.
    pub tasks: TaskTracker,
    /// Set when the server begins to end: what would only wait ends at once.
    pub shutdown: CancellationToken,
    /// Set when the time for ending is over: what does not end by itself is ended.
    pub over: CancellationToken,
}

/// Every route with its documentation, in the order of the document.
fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::skeleton())
        .merge(on(Surface::Sandboxes))
        .merge(capsules().layer(from_fn(surface::known_codes)))
        .routes(routes!(disk::usage))
        .routes(routes!(disk::prune))
        .routes(routes!(reconciler::get))
        .routes(routes!(metrics::get))
        .routes(routes!(health::get))
}

/// The second surface, with what only it has.
fn capsules() -> OpenApiRouter<Arc<Api>> {
    on(Surface::Capsules)
        .routes(routes!(stats::stats))
        .routes(routes!(stats::usage))
        .routes(routes!(snapshots::create, snapshots::list))
        .routes(routes!(snapshots::get, snapshots::delete))
        .routes(routes!(events::list))
        .routes(routes!(events::stream))
}

/// What both surfaces have.
fn on(surface: Surface) -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(surface.routes(routes!(sandboxes::create, sandboxes::list)))
        .routes(surface.routes(routes!(sandboxes::get, sandboxes::delete)))
        .routes(surface.routes(routes!(sandboxes::pause)))
        .routes(surface.routes(routes!(sandboxes::stop)))
        .routes(surface.routes(routes!(sandboxes::resume)))
        .routes(surface.routes(routes!(snapshots::create_of)))
        .routes(surface.routes(routes!(fork::fork)))
        .routes(surface.routes(routes!(ping::ping)))
        .routes(surface.routes(routes!(exec::exec)))
        .routes(surface.routes(routes!(exec_stream::exec_stream)))
        .routes(surface.routes(routes!(terminal::open)))
        .routes(surface.routes(routes!(processes::list)))
        .routes(surface.routes(routes!(processes::kill)))
        .routes(surface.routes(routes!(exec_stream::process_stream)))
        .routes(surface.routes(routes!(process_output::output)))
        .routes(surface.routes(routes!(files::write)))
        .routes(surface.routes(routes!(files::read)))
        .routes(surface.routes(routes!(files::stream_write)))
        .routes(surface.routes(routes!(files::stream_read)))
        .routes(surface.routes(routes!(directory::list)))
        .routes(surface.routes(routes!(directory::make)))
        .routes(surface.routes(routes!(directory::remove)))
        .routes(surface.routes(routes!(sandbox_metrics::get)))
        .routes(surface.routes(routes!(network::get, network::put)))
        .routes(surface.routes(routes!(benchmark::get)))
        .routes(surface.routes(routes!(footprint::get)))
}

/// The OpenAPI document of every route.
pub fn document() -> OpenApi {
    openapi::complete(routes().into_openapi())
}

/// The same as YAML: what is served, and what `openapi/sandpiper.yaml` is made from.
pub fn openapi_yaml() -> String {
    document().to_yaml().expect("the document is YAML")
}

/// The answer where there is nothing.
async fn nowhere() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The same in the form of the surface on which there is nothing.
async fn no_route(uri: Uri) -> Response {
    if e2b::has(uri.path()) {
        return ApiError::not_found("there is no such route").into_response();
    }
    nowhere().await.into_response()
}

/// The whole API as a service. A trailing slash never matters.
pub fn service(api: Arc<Api>, hosts: KnownHosts, drain: Drain) -> NormalizePath<Router> {
    let (router, _) = routes().split_for_parts();
    let router = router
        .merge(openapi::routes())
        .merge(docs::routes())
        .merge(e2b::routes())
        .fallback(no_route)
        // Each handler has a limit of its own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(api.clone(), auth::authenticate))
        .layer(from_fn_with_state(api.patience.body, request::refuse_stalled))
        .with_state(api.clone())
        .layer(from_fn_with_state(Arc::new(hosts), guard::refuse_foreign_pages))
        .layer(from_fn_with_state(drain, drain::admit))
        .layer(from_fn_with_state(api, request::count))
        .layer(from_fn(request::identify));
    tower::Layer::layer(&NormalizePathLayer::trim_trailing_slash(), router)
}

impl Api {
    async fn sandbox(&self, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, ApiError> {
        self.store.get(owner, id).await?.ok_or_else(ApiError::no_sandbox)
    }

    /// The sandbox, if commands and files can reach it; where it was asked for at its creation, by resuming it.
    async fn running(&self, owner: &OwnerId, id: &SandboxId) -> Result<Sandbox, ApiError> {
        Ok(self.lifecycle.awake(owner, id).await?)
    }

    /// Records that a sandbox was used. No use fails because it could not be recorded.
    async fn touch(&self, sandbox: &Sandbox) {
        if let Err(error) = self.store.touch(&sandbox.owner, &sandbox.id).await {
            tracing::warn!(sandbox = %sandbox.id, error = &error as &dyn std::error::Error, "use not recorded");
        }
    }
}
