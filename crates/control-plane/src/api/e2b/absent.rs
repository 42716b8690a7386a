//! What clients of E2B may ask for and is not offered: each is answered 501 and says what it is.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, any, patch, post};

use super::super::Api;
use super::super::error::ApiError;
use super::error::absent;

const BUILDS: &str = "building of templates through the API; `sandpiper template build` does it";
const VISIBILITY: &str = "publishing of templates";
const VOLUMES: &str = "volumes";
const SECRETS: &str = "secrets";

fn all(what: &'static str) -> MethodRouter<Arc<Api>> {
    any(move || answer(what))
}

async fn answer(what: &'static str) -> Result<(), ApiError> {
    Err(absent(what))
}

/// The routes that say so.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v3/templates", all(BUILDS))
        .route("/templates", post(move || answer(BUILDS)))
        .route("/v2/templates", post(move || answer(BUILDS)))
        .route("/templates/{id}", patch(move || answer(VISIBILITY)).post(move || answer(BUILDS)))
        .route("/v2/templates/{id}", patch(move || answer(VISIBILITY)))
        .route("/templates/{id}/files/{hash}", all(BUILDS))
        .route("/templates/{id}/builds/{build}", all(BUILDS))
        .route("/v2/templates/{id}/builds/{build}", all(BUILDS))
        .route("/templates/{id}/builds/{build}/status", all(BUILDS))
        .route("/templates/{id}/builds/{build}/logs", all(BUILDS))
        .route("/volumes", all(VOLUMES))
        .route("/volumes/{id}", all(VOLUMES))
        .route("/volumecontent/{*rest}", all(VOLUMES))
        .route("/secrets", all(SECRETS))
        .route("/secrets/{id}", all(SECRETS))
}
