//! The surfaces of the API: `/v1/sandboxes`, and `/v1/capsules` for the programs that were written for it. Both have
//! the same handlers; what differs between them is said here: paths, defaults, and how patient an answer is.

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use model::{Lifetime, OnExpiry, Status};
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::{PathItem, RefOr};
use utoipa_axum::router::UtoipaMethodRouter;

use super::error::ApiError;
use super::openapi::schema;
use crate::host::RunLimit;
use crate::lifecycle::WhileBuilding;

/// The form in which a client speaks to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// `/v1/sandboxes`.
    Sandboxes,
    /// `/v1/capsules`.
    Capsules,
}

const SANDBOXES: &str = "/v1/sandboxes";
const CAPSULES: &str = "/v1/capsules";

/// A capsule is never given less time than this.
const SHORTEST_CAPSULE: u32 = 60;

impl<S: Sync> FromRequestParts<S> for Surface {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::Sandboxes))
    }
}

impl Surface {
    /// What a sandbox is made from where none says.
    pub fn template(self) -> &'static str {
        match self {
            Self::Sandboxes => "minimal",
            Self::Capsules => "minimal-ubuntu",
        }
    }

    /// How long a sandbox lives where `timeout_sec` says nothing.
    pub fn timeout(self) -> i64 {
        match self {
            Self::Sandboxes => 300,
            Self::Capsules => 0,
        }
    }

    /// The lifetime for so many seconds; 0 is never.
    pub fn lifetime(self, seconds: u32) -> Lifetime {
        match (self, seconds) {
            (Self::Sandboxes, _) | (_, 0) => Lifetime::from_idle_seconds(seconds),
            (Self::Capsules, _) => Lifetime::from_idle_seconds(seconds.max(SHORTEST_CAPSULE)),
        }
    }

    /// What becomes of a sandbox that nobody uses.
    pub fn on_expiry(self) -> OnExpiry {
        match self {
            Self::Sandboxes => OnExpiry::Destroy,
            Self::Capsules => OnExpiry::Pause,
        }
    }

    /// What a create does while its template is being built: clients of capsules look again by themselves.
    pub fn while_building(self) -> WhileBuilding {
        match self {
            Self::Sandboxes => WhileBuilding::Refuse,
            Self::Capsules => WhileBuilding::Wait,
        }
    }

    /// What a list shows where no status is asked for; nothing means everything.
    pub fn listed(self) -> Vec<Status> {
        match self {
            Self::Sandboxes => Vec::new(),
            Self::Capsules => {
                Status::ALL.into_iter().filter(|status| !matches!(status, Status::Stopped | Status::Error)).collect()
            }
        }
    }

    /// How long a command may run that is followed live and names no limit.
    pub fn live_limit(self) -> RunLimit {
        RunLimit::None
    }

    /// The same routes on this surface.
    pub fn routes<S: Clone + Send + Sync + 'static>(self, routes: UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S> {
        let (schemas, mut paths, router) = routes;
        let described = std::mem::take(&mut paths.paths);
        paths.paths = described.into_iter().map(|(path, item)| self.describe(&path, item)).collect();
        (schemas, paths, router.layer(axum::Extension(self)))
    }

    fn describe(self, path: &str, mut item: PathItem) -> (String, PathItem) {
        if self == Self::Sandboxes {
            return (path.to_owned(), item);
        }
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
        operations.into_iter().flatten().for_each(describe_capsules);
        (path.replacen(SANDBOXES, CAPSULES, 1), item)
    }
}

/// The same members with other defaults.
fn create_capsule_request() -> Value {
    let mut schema = super::sandboxes::create_request();
    let surface = Surface::Capsules;
    let members = &mut schema["properties"];
    members["template"]["default"] = json!(surface.template());
    members["template"]["pattern"] = json!(super::origin::SNAPSHOT_PATTERN);
    members["template"]["description"] =
        json!("A template or a snapshot that it is made from; empty means the default");
    members["on_timeout"]["default"] = json!(surface.on_expiry().as_str());
    members["timeout_sec"]["default"] = json!(surface.timeout());
    members["timeout_sec"]["description"] = json!(format!(
        "Seconds without activity after which `on_timeout` says what happens; 0 is never, and less than \
         {SHORTEST_CAPSULE} is {SHORTEST_CAPSULE}"
    ));
    schema
}

fn describe_capsules(operation: &mut Operation) {
    operation.tags = Some(vec!["capsules".to_owned()]);
    let id = operation.operation_id.take().unwrap_or_default();
    let (renamed, is_lifecycle) = match id.as_str() {
        "createSandbox" => ("createCapsule".to_owned(), true),
        "pauseSandbox" | "stopSandbox" | "resumeSandbox" | "snapshotSandbox" | "forkSandbox" => {
            (id.replace("Sandbox", "Capsule"), true)
        }
        _ if id.contains("Sandbox") => (id.replace("Sandbox", "Capsule"), false),
        _ => (format!("{id}InCapsule"), false),
    };
    let responses = &mut operation.responses.responses;
    if is_lifecycle && let Some(RefOr::T(mut soon)) = responses.get("200").or(responses.get("201")).cloned() {
        soon.description = "It takes longer; its status says how it goes".to_owned();
        responses.insert("202".to_owned(), soon.into());
    }
    if renamed == "createCapsule"
        && let Some(RefOr::T(body)) = &mut operation.request_body
    {
        let body = body.content.values_mut().filter_map(|content| match content {
            RefOr::T(content) => Some(content),
            RefOr::Ref(_) => None,
        });
        body.for_each(|content| content.schema = Some(schema(create_capsule_request())));
    }
    if renamed == "listCapsules" {
        operation.description =
            Some("The newest first, without those that are stopped or in error unless `status` names them.".to_owned());
    }
    operation.operation_id = Some(renamed);
}

/// The middleware of the second surface: the codes of errors that its clients know.
pub async fn known_codes(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let status = response.status();
    if let Some(error) = response.extensions_mut().get_mut::<ApiError>() {
        error.rename(|code| known_code(status, code));
    }
    response
}

fn known_code(status: StatusCode, code: &'static str) -> &'static str {
    match (status.as_u16(), code) {
        (503, _) => "host_unavailable",
        (408, _) => "invalid_request",
        (501 | 502 | 504 | 507, _) => "agent_error",
        (500, _) => "internal_error",
        _ => code,
    }
}
