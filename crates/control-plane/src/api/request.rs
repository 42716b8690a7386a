//! What all requests have in common: an id, a caller, a sandbox's id in the path, a JSON body.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{OwnerId, SandboxId};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};
use tracing::Instrument;

use super::Api;
use super::e2b;
use super::error::{ApiError, TimeLimit};
use super::surface::Surface;
use crate::listen::body::{Arriving, StallSign};

const REQUEST_ID: &str = "x-request-id";

/// A client that takes longer to send a JSON body is not sending one.
const BODY: Duration = Duration::from_secs(30);

/// A secret as it was sent, which shows in no log.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Given(pub String);

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given")
    }
}

/// Gives the request an id (the client's own, where it has a usable one), writes the bodies of errors, and logs one
/// line. Everything that is logged while the request is worked on carries its id too.
pub async fn identify(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| is_usable(id));
    let id = given.map_or_else(random_id, str::to_owned);
    // Of the severest kind, so that no filter that lets anything through leaves the id out.
    let span = tracing::error_span!("request", request_id = id);
    let is_e2b = e2b::has(request.uri().path());
    let mut response = log(request, next).instrument(span).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let body = if is_e2b { e2b::body(response.status(), &error) } else { error.body(&id) };
        if is_e2b {
            e2b::retry(response.headers_mut(), &error);
        }
        *response.body_mut() = Body::from(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

async fn log(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = route(request.extensions());
    let response = next.run(request).await;
    let (status, took_ms) =
        (response.status().as_u16(), u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let code = response.extensions().get::<ApiError>().map(ApiError::code);
    tracing::info!(%method, route, path, status, code, took_ms, "request");
    response
}

/// Counts requests and their time.
pub async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (method, route) = (method_label(request.method()), route(request.extensions()));
    let response = next.run(request).await;
    api.metrics.request(method, &route, response.status().as_u16(), began.elapsed());
    response
}

/// The template of the path, such as `/v1/sandboxes/{id}`; a client can make up paths, but not these.
fn route(extensions: &Extensions) -> String {
    extensions.get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned()
}

/// A method for figures: a client can make up methods too.
pub fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Ends requests whose body stops arriving, whoever reads it.
pub async fn refuse_stalled(State(patience): State<Duration>, request: Request, next: Next) -> Response {
    let sign = StallSign::default();
    let response = next.run(request.map(|body| Body::new(Arriving::new(body, patience, sign.clone())))).await;
    if sign.is_set() { too_slow().into_response() } else { response }
}

fn too_slow() -> ApiError {
    ApiError::timeout(StatusCode::REQUEST_TIMEOUT, TimeLimit::Idle, "the request's body did not arrive")
}

fn is_usable(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// As unguessable as a sandbox's id, and made the same way.
fn random_id() -> String {
    SandboxId::random().as_str().replacen("sb", "req-", 1)
}

/// Whom a request is made for: nobody in particular, where the server asks for no keys.
pub struct Caller(pub OwnerId);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Every route that has a caller is behind the middleware that says who it is.
        let owner = parts.extensions.get::<OwnerId>().cloned();
        owner.map(Self).ok_or_else(|| ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "who asks is not known"))
    }
}

/// The `{id}` of a path. What is no id at all is the id of no sandbox.
pub struct InPath(pub SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = in_path(parts, state, "id").await.ok_or_else(ApiError::no_sandbox)?;
        Ok(Self(text.parse().map_err(|_| ApiError::no_sandbox())?))
    }
}

/// One part of a path, by its name.
pub async fn in_path<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let mut all = Path::<HashMap<String, String>>::from_request_parts(parts, state).await.ok()?;
    all.remove(name)
}

/// Answers with what `work` comes to. Clients of capsules give up after 30 seconds, so they are told before that how far
/// it is; the work goes on.
pub async fn in_time<T>(
    api: &Api,
    surface: Surface,
    work: impl Future<Output = Result<T, ApiError>>,
    done: impl FnOnce(T) -> Response,
    so_far: impl Future<Output = Result<Option<Response>, ApiError>>,
) -> Result<Response, ApiError> {
    tokio::pin!(work);
    if surface == Surface::Capsules {
        if let Ok(finished) = tokio::time::timeout(api.limits.capsule_answer, &mut work).await {
            return finished.map(done);
        }
        // No record by now means that the work has just ended.
        if let Some(answer) = so_far.await? {
            return Ok(answer);
        }
    }
    work.await.map(done)
}

/// Reads a JSON body, whatever its Content-Type says.
pub async fn read_json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, ApiError> {
    parse_json(&read_body(body, limit).await?)
}

/// Reads the body of a request that is to be JSON.
pub async fn read_body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let body = tokio::time::timeout(BODY, Limited::new(body, limit).collect()).await.map_err(|_| too_slow())?.map_err(
        |error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => ApiError::too_large(format!("the JSON body exceeds {limit} bytes")),
            None => ApiError::invalid_request("the request's body did not arrive complete"),
        },
    )?;
    Ok(body.to_bytes())
}

/// Parses a JSON object. serde alone would also take an array of a structure's members.
pub fn parse_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let object = serde_json::from_slice::<Map<String, Value>>(text);
    object.and_then(|object| serde_json::from_value(Value::Object(object))).map_err(|error| {
        // serde quotes what it found, which may be long.
        let reason: String = error.to_string().chars().take(200).collect();
        ApiError::invalid_request(format!("invalid JSON body: {reason}"))
    })
}

/// A whole number, also when it is written as `2.0`: many programs know only one kind of number.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    /// Below this a float has every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<Number>::deserialize(deserializer)? else { return Ok(None) };
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
    let whole = number.as_i64().or_else(|| float().map(|float| float as i64));
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("expected a whole number, got {number}")))
}

/// No program, argument, path or variable of Unix can hold a NUL.
pub fn without_nul(name: &str, text: &str) -> Result<(), ApiError> {
    match text.contains('\0') {
        true => Err(ApiError::invalid_request(format!("{name} must not contain a NUL character"))),
        false => Ok(()),
    }
}

/// A JSON answer that is written already, ended by a newline.
pub fn json_text(status: StatusCode, text: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

/// A JSON answer, ended by a newline.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => json_text(status, text),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "an answer is no JSON");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the answer cannot be written").into_response()
        }
    }
}
