//! Errors in the form, the statuses and the words that clients of E2B know, some of which they look for.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use model::{SandboxId, Status};

use super::super::error::ApiError;
use crate::lifecycle::LifecycleError;

const NO_SPACE: &str = "no_space";

/// What clients tell from other conflicts: a guest agent that gives no sign of life.
const UNRESPONSIVE: &str = "sandbox_snapshot_guest_agent_unresponsive";

/// The body of an error.
pub fn body(status: StatusCode, error: &ApiError) -> String {
    let mut body = serde_json::json!({"code": status.as_u16(), "message": error.message()});
    if error.code() == UNRESPONSIVE {
        body["error_code"] = UNRESPONSIVE.into();
    }
    body.to_string()
}

/// Tells whether the same call may do later: where there is no room, repeating it soon is no use.
pub fn retry(headers: &mut HeaderMap, error: &ApiError) {
    if error.code() == NO_SPACE {
        headers.remove(RETRY_AFTER);
        headers.insert("should-retry", HeaderValue::from_static("false"));
    }
}

/// The middleware: statuses that these clients have no reaction to become those that they have one to.
pub async fn speak(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.extensions().get::<ApiError>().is_some() {
        *response.status_mut() = known(response.status());
    }
    response
}

fn known(status: StatusCode) -> StatusCode {
    match status {
        StatusCode::INSUFFICIENT_STORAGE => StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE => StatusCode::BAD_REQUEST,
        StatusCode::BAD_GATEWAY => StatusCode::INTERNAL_SERVER_ERROR,
        other => other,
    }
}

/// An error of one thing in a list of several, of which others may be fine.
pub fn in_list(error: &ApiError) -> serde_json::Value {
    serde_json::json!({"code": known(error.status()).as_u16(), "message": error.message()})
}

/// There is no such sandbox for the caller, whatever was asked for.
pub fn no_sandbox(id: &str) -> ApiError {
    let id: String = id.chars().take(80).collect();
    ApiError::not_found(format!("Sandbox \"{id}\" doesn't exist or you don't have access to it"))
}

/// No sandbox can be called so.
pub fn invalid_id() -> ApiError {
    ApiError::invalid_request("Invalid sandbox ID")
}

/// The route is there, for other methods.
pub async fn no_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route has no such method")
}

/// What needs a guest agent that is well was not done.
pub fn unresponsive(id: &SandboxId) -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        UNRESPONSIVE,
        format!("Sandbox \"{id}\" has a guest agent that does not respond"),
    )
}

/// Nothing of the kind is offered here.
pub fn absent(what: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "unimplemented", format!("this server does not offer {what}"))
}

/// What a sandbox is in the middle of, where that keeps it from what was asked for.
pub fn in_the_way(id: &SandboxId, status: Status) -> ApiError {
    let doing = match status {
        Status::Stopping => "is being killed",
        Status::Pausing => "is being paused",
        Status::Snapshotting => "is being snapshotted",
        Status::Resuming => "is being resumed",
        Status::Pending => "is being created",
        Status::Paused => "is paused",
        Status::Running => "is already running",
        Status::Stopped | Status::Missing | Status::Error => return no_sandbox(id.as_str()),
    };
    ApiError::conflict(format!("Sandbox \"{id}\" {doing}"))
}

/// What became of a change of a sandbox.
pub fn told(id: &SandboxId, error: LifecycleError) -> ApiError {
    match error {
        LifecycleError::NotFound => no_sandbox(id.as_str()),
        LifecycleError::Illegal(illegal) => in_the_way(id, illegal.from),
        LifecycleError::NotRunning { status, .. } => in_the_way(id, status),
        LifecycleError::Race(Some(status)) => in_the_way(id, status),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_words_that_clients_look_for() {
        let id: SandboxId = "sb1".parse().unwrap();
        let message = |error: ApiError| (error.status().as_u16(), error.into_message());
        let gone = r#"Sandbox "sb1" doesn't exist or you don't have access to it"#.to_owned();
        assert_eq!(message(told(&id, LifecycleError::NotFound)), (404, gone));
        let killed = r#"Sandbox "sb1" is being killed"#.to_owned();
        let stopping = LifecycleError::NotRunning { status: Status::Stopping, reason: String::new() };
        assert_eq!(message(told(&id, stopping)), (409, killed));
        let error = ApiError::not_found("no \"x\"");
        assert_eq!(body(error.status(), &error), r#"{"code":404,"message":"no \"x\""}"#);
    }

    #[test]
    fn only_statuses_that_clients_know_are_answered() {
        assert_eq!(known(StatusCode::INSUFFICIENT_STORAGE), 503);
        assert_eq!(known(StatusCode::BAD_GATEWAY), 500);
        assert_eq!(known(StatusCode::CONFLICT), 409);
        let full = ApiError::new(StatusCode::INSUFFICIENT_STORAGE, NO_SPACE, "full");
        let mut headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("1"))]);
        retry(&mut headers, &full);
        assert_eq!(
            headers,
            HeaderMap::from_iter([("should-retry".parse().unwrap(), HeaderValue::from_static("false"))])
        );
    }
}
