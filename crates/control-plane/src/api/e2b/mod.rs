//! The surface for clients of E2B: its paths, members, statuses and words, from the same lifecycle as everything else.
//!
//! A client sees here the sandboxes that were made here: others have no guest agent that it could speak with. The
//! contract is E2B's and no part of our OpenAPI document; docs/e2b.md says what of it there is.

mod absent;
mod builds;
mod create;
mod error;
mod fork;
mod list;
mod logs;
mod metrics;
mod names;
mod network;
mod pages;
mod sandboxes;
mod snapshots;
mod tag_groups;
mod tags;
mod templates;
mod time;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post, put};

use super::Api;
pub use error::{body, retry};

/// The version of the guest agent's contract.
const CONTRACT: &str = "0.6.13";

/// Below these everything is of this surface.
const PATHS: [&str; 9] = [
    "/v2",
    "/v3",
    "/sandboxes",
    "/templates",
    "/snapshots",
    "/default-templates",
    "/volumes",
    "/volumecontent",
    "/secrets",
];

/// Whether a path belongs to this surface, so that its errors have this surface's form.
pub fn has(path: &str) -> bool {
    PATHS.iter().any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Every route of it.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/sandboxes", post(create::v1).get(list::running))
        .route("/v2/sandboxes", post(create::v2).get(list::list))
        .route("/sandboxes/metrics", get(metrics::of_several))
        .route("/sandboxes/{id}", get(sandboxes::get).delete(sandboxes::kill))
        .route("/sandboxes/{id}/metrics", get(metrics::of_one))
        .route("/sandboxes/{id}/connect", post(time::connect))
        .route("/v2/sandboxes/{id}/connect", post(time::connect))
        .route("/sandboxes/{id}/resume", post(time::resume))
        .route("/sandboxes/{id}/timeout", post(time::set))
        .route("/sandboxes/{id}/refreshes", post(time::refresh))
        .route("/sandboxes/{id}/pause", post(sandboxes::pause))
        .route("/sandboxes/{id}/snapshots", post(snapshots::create))
        .route("/sandboxes/{id}/fork", post(fork::fork))
        .route("/sandboxes/{id}/network", put(network::replace))
        .route("/sandboxes/{id}/logs", get(logs::v1))
        .route("/v2/sandboxes/{id}/logs", get(logs::v2))
        .route("/snapshots", get(snapshots::list))
        .route("/templates", get(templates::list))
        .route("/v2/templates", get(templates::pages))
        .route("/default-templates", get(templates::defaults))
        .route("/templates/{id}", get(templates::get).delete(snapshots::delete))
        .route("/templates/aliases/{alias}", get(templates::alias))
        .route("/templates/tags", post(tags::assign).delete(tags::remove))
        .route("/templates/{id}/tags", get(tags::list))
        .route("/templates/{id}/tags/count", get(tags::count))
        .route("/templates/{id}/tags/exists", get(tags::exists))
        .route("/templates/{id}/tags/groups", get(tag_groups::groups))
        .route("/templates/{id}/tags/{tag}/assignments", get(tag_groups::assignments))
        .merge(absent::routes())
        .method_not_allowed_fallback(error::no_method)
        .layer(from_fn(error::speak))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surface_is_told_from_ours_by_the_path() {
        for own in ["/sandboxes", "/sandboxes/x/pause", "/v2/sandboxes", "/v3/templates", "/secrets/a%2Fb"] {
            assert!(has(own), "{own}");
        }
        for other in ["/v1/sandboxes", "/sandboxesx", "/health", "/", "/docs", "/v2x"] {
            assert!(!has(other), "{other}");
        }
    }
}
