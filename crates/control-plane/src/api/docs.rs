//! The page at `/docs`: Swagger UI for the OpenAPI document, out of this binary. It loads nothing from elsewhere, and
//! its policy would not let it.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue};
use utoipa_swagger_ui::Config;

use super::nowhere;

/// Only this server: no script, style or request leads elsewhere. The icons in Swagger UI's style are `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("../../assets/docs/index.html");
const START: &str = include_str!("../../assets/docs/start.js");

/// The parts of Swagger UI that the page uses.
const PARTS: [&str; 4] = ["index.css", "swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"];

/// The routes of the page.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/docs", get(|| async { page("text/html; charset=utf-8", INDEX) }))
        .route("/docs/{part}", get(part))
}

async fn part(name: Result<Path<String>, PathRejection>) -> Response {
    let part = match name.as_deref().map(String::as_str) {
        Ok("start.js") => Some(page("text/javascript", START)),
        Ok(name) if PARTS.contains(&name) => swagger_ui(name),
        _ => None,
    };
    match part {
        Some(part) => part,
        None => nowhere().await.into_response(),
    }
}

fn swagger_ui(name: &str) -> Option<Response> {
    let file = utoipa_swagger_ui::serve(name, Arc::new(Config::default())).ok()??;
    Some(page(&file.content_type, file.bytes.into_owned()))
}

fn page(kind: &str, body: impl IntoResponse) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(kind) = HeaderValue::from_str(kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    (headers, body).into_response()
}
