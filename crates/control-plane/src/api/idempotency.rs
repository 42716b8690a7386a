//! Requests that a client may have to repeat: with the header `Idempotency-Key`, the same request is done once, and every
//! repetition gets what came of it.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tracing::Instrument;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};

use super::Api;
use super::error::{ApiError, Partial};
use super::exec::{self, ExecRequest};
use super::openapi::schema;
use super::request::{json_text, parse_json};
use crate::store::{Claim, Once, Sandbox, hex};

const HEADER: &str = "idempotency-key";

/// Characters of a key.
const MAX_KEY: usize = 255;

/// Between two looks whether a command has its answer.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often whoever runs a command says so.
const RENEW: Duration = Duration::from_secs(5);

/// Whoever said nothing for so long runs it no more.
const GONE: Duration = Duration::from_secs(30);

/// The longest answer that is kept.
const MAX_ANSWER: usize = 4 << 20;

/// The header, for the document.
pub struct KeyParam;

impl IntoParams for KeyParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
        let key = serde_json::json!({"type": "string", "pattern": "^[!-~]{1,255}$"});
        let builder = builder.description(Some("The same key is the same request, done once; kept for a day"));
        vec![builder.schema(Some(schema(key))).build()]
    }
}

/// The key of a request, with what tells that request from others.
pub fn once(headers: &HeaderMap, body: &[u8]) -> Result<Option<Once>, ApiError> {
    let Some(key) = headers.get(HEADER) else { return Ok(None) };
    let name = key.to_str().ok().filter(|name| (1..=MAX_KEY).contains(&name.len()));
    let name = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic())).ok_or_else(|| {
        ApiError::invalid_request(format!("Idempotency-Key must have 1 to {MAX_KEY} visible characters"))
    })?;
    // However it is written, the same JSON is the same request.
    let request: serde_json::Map<String, Value> = parse_json(body)?;
    let request = hex(&Sha256::digest(Value::Object(request).to_string()));
    Ok(Some(Once { name: name.to_owned(), request }))
}

/// What came of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Came {
    /// It was answered with this.
    Answer(u16, String),
    /// It took too long.
    TooLong(String, Partial),
    /// What came of it is not known, or too much to be kept.
    Unknown(String),
}

/// Runs a command unless it was run before under this key, and answers with what came of it.
pub async fn exec(api: &Arc<Api>, sandbox: Sandbox, request: ExecRequest, once: Once) -> Result<Response, ApiError> {
    loop {
        match api.store.claim(&sandbox, &once).await? {
            Claim::New => return begin(api, sandbox, request, once).await,
            Claim::Different => {
                return Err(ApiError::conflict("the idempotency key was given to a different request before"));
            }
            Claim::Answered(text) => return again(&text),
            Claim::Running { renewed_at } if is_gone(renewed_at) => {
                return Err(ApiError::conflict("the command was begun, but what came of it is not known"));
            }
            Claim::Running { .. } => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

fn is_gone(renewed_at: Timestamp) -> bool {
    let now = Timestamp::now();
    now > renewed_at && now.duration_since(renewed_at).unsigned_abs() > GONE
}

/// Runs it to its end, also when the client does not wait: it will ask again.
async fn begin(api: &Arc<Api>, sandbox: Sandbox, request: ExecRequest, once: Once) -> Result<Response, ApiError> {
    let task = api.clone();
    let work = async move {
        let ran = {
            let ran = exec::run_to_answer(&task, &sandbox, request);
            tokio::pin!(ran);
            let mut renewals = interval(RENEW);
            renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    ran = &mut ran => break ran,
                    _ = renewals.tick() => log(task.store.renew_claim(&sandbox, &once).await),
                }
            }
        };
        match came(&ran) {
            Some(came) => {
                let text = serde_json::to_string(&came).unwrap_or_default();
                log(task.store.keep_answer(&sandbox, &once, &text).await);
            }
            None => log(task.store.release_claim(&sandbox, &once).await),
        }
        ran.map(|(status, text)| json_text(status, text))
    };
    let interrupted = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the work was interrupted");
    api.tasks.spawn(work.in_current_span()).await.unwrap_or_else(|error| Err(interrupted(error)))
}

fn log(kept: Result<(), crate::store::StoreError>) {
    if let Err(error) = kept {
        tracing::warn!(error = &error as &dyn std::error::Error, "what came of a command is not kept");
    }
}

/// What is to be kept; nothing of a command that was not begun.
fn came(ran: &Result<(StatusCode, String), ApiError>) -> Option<Came> {
    match ran {
        Ok((status, text)) if text.len() <= MAX_ANSWER => Some(Came::Answer(status.as_u16(), text.clone())),
        Ok(_) => Some(Came::Unknown("it has run, and its output is too much to be kept".to_owned())),
        Err(error) => match (error.partial(), error.status()) {
            (Some(partial), _) => Some(Came::TooLong(error.clone().into_message(), partial.clone())),
            (None, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => {
                Some(Came::Unknown(error.clone().into_message()))
            }
            (None, _) => None,
        },
    }
}

fn again(text: &str) -> Result<Response, ApiError> {
    let came = serde_json::from_str(text).unwrap_or_else(|_| Came::Unknown("its answer cannot be read".to_owned()));
    match came {
        Came::Answer(status, text) => Ok(json_text(StatusCode::from_u16(status).unwrap_or_default(), text)),
        Came::TooLong(message, partial) => Err(ApiError::exec_timeout(message, partial)),
        Came::Unknown(why) => {
            Err(ApiError::conflict(format!("the command was begun, but what came of it is not known: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &'static str, body: &str) -> Result<Option<Once>, ApiError> {
        let headers = [(http::HeaderName::from_static(HEADER), http::HeaderValue::from_static(key))];
        once(&headers.into_iter().collect(), body.as_bytes())
    }

    #[test]
    fn the_same_json_is_the_same_request_however_it_is_written() {
        let one = of("k", r#"{"a":1,"b":[2]}"#).unwrap().unwrap();
        assert_eq!(of("k", r#" {"b": [2], "a": 1}"#).unwrap().unwrap(), one);
        assert_ne!(of("k", r#"{"a":1,"b":[3]}"#).unwrap().unwrap().request, one.request);
        assert_eq!(once(&HeaderMap::new(), b"{}").unwrap(), None);
        assert!(of("", "{}").is_err() && of("a b", "{}").is_err());
    }
}
