//! Who makes a request. Everything needs a key once there is one, except what is listed here.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use model::OwnerId;

use super::Api;
use super::error::ApiError;
use crate::store::Admission;

/// What load balancers and monitors ask, who have no key, and what the API is. None of it tells of any sandbox.
const OPEN: [&str; 4] = ["/health", "/docs", "/openapi.json", "/openapi.yaml"];

fn is_open(path: &str) -> bool {
    OPEN.contains(&path) || path.starts_with("/docs/")
}

/// The middleware: who it is stands in the request's extensions afterwards.
pub async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    if !is_open(request.uri().path()) {
        match admit(&api, request.headers()).await {
            Ok(owner) => drop(request.extensions_mut().insert(owner)),
            Err(error) => return error,
        }
    }
    next.run(request).await
}

async fn admit(api: &Api, headers: &HeaderMap) -> Result<OwnerId, Response> {
    match api.store.admit(key(headers)).await {
        Ok(Admission::Open) => Ok(OwnerId::nobody()),
        Ok(Admission::Owner(owner)) => Ok(owner),
        Ok(Admission::Refused) => Err(unauthorized()),
        Err(error) => Err(ApiError::from(error).into_response()),
    }
}

/// The key that came with a request.
fn key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok().map(str::trim);
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn unauthorized() -> Response {
    let message = "this server asks for an API key, in X-API-Key or as Authorization: Bearer";
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_in_either_header() {
        let found = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            key(&headers).map(str::to_owned)
        };
        assert_eq!(found("x-api-key", "e2b_1").as_deref(), Some("e2b_1"));
        assert_eq!(found("authorization", "Bearer e2b_1").as_deref(), Some("e2b_1"));
        assert_eq!(found("authorization", "bearer  e2b_1").as_deref(), Some("e2b_1"));
        assert_eq!(found("authorization", "Basic e2b_1"), None);
        assert_eq!(found("authorization", "e2b_1"), None);
        assert_eq!(found("cookie", "e2b_1"), None);
    }
}
