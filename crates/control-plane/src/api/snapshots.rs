//! Templates as clients of capsules see them. Making them out of capsules is not possible yet, and is said so.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, schema};
use super::request::{Caller, json as json_answer, read_json};
use super::stats::in_query;

/// What to keep.
#[derive(Deserialize, ToSchema)]
#[schema(as = CreateSnapshotRequest)]
struct CreateRequest {
    /// The capsule.
    #[serde(default)]
    #[schema(required, min_length = 1)]
    sandbox_id: String,
    /// Under which name.
    #[allow(dead_code, reason = "its type is checked")]
    name: Option<String>,
}

/// A template.
#[derive(Serialize, ToSchema)]
#[schema(as = Template)]
struct TemplateView {
    name: String,
    /// `base`: it came with the server.
    r#type: &'static str,
    platform: bool,
    protected: bool,
}

struct TypeParam;

impl IntoParams for TypeParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("type").parameter_in(ParameterIn::Query);
        let schema = schema(json!({"type": "string", "enum": ["base", "snapshot"]}));
        vec![builder.description(Some("Only those of this type")).schema(Some(schema)).build()]
    }
}

/// Keep a capsule as a template
///
/// Not possible yet: 501.
#[utoipa::path(
    post,
    path = "/v1/snapshots",
    operation_id = "createSnapshot",
    tag = "capsules",
    request_body = CreateRequest,
    responses((status = 201, description = "It is kept", body = TemplateView), JsonErrors, HostErrors)
)]
pub async fn create(State(api): State<Arc<Api>>, Caller(owner): Caller, body: Body) -> Result<Response, ApiError> {
    let request: CreateRequest = read_json(body, api.limits.json_body).await?;
    if request.sandbox_id.is_empty() {
        return Err(ApiError::invalid_request("sandbox_id is required"));
    }
    let id = request.sandbox_id.parse().map_err(|_| ApiError::no_sandbox())?;
    api.running(&owner, &id).await?;
    Err(unimplemented("capsules cannot be kept as templates yet"))
}

fn unimplemented(message: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "unimplemented", message)
}

/// List templates
#[utoipa::path(
    get,
    path = "/v1/snapshots",
    operation_id = "listSnapshots",
    tag = "capsules",
    params(TypeParam),
    responses((status = 200, description = "All of them", body = [TemplateView]), HostErrors)
)]
pub async fn list(State(api): State<Arc<Api>>, _: Caller, uri: http::Uri) -> Result<Response, ApiError> {
    let names = match in_query(&uri, "type").as_deref() {
        None | Some("base") => api.host.describe().await?.templates,
        Some("snapshot") => Vec::new(),
        Some(_) => return Err(ApiError::invalid_request("type must be base or snapshot")),
    };
    let view = |name| TemplateView { name, r#type: "base", platform: true, protected: true };
    Ok(json_answer(StatusCode::OK, &names.into_iter().map(view).collect::<Vec<_>>()))
}

struct NameParam;

impl IntoParams for NameParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("name").parameter_in(ParameterIn::Path);
        let builder = builder.required(utoipa::openapi::Required::True).description(Some("The template"));
        vec![builder.schema(Some(schema(json!({"type": "string", "minLength": 1})))).build()]
    }
}

/// Delete a template
///
/// Those that came with the server cannot be deleted: 403.
#[utoipa::path(
    delete,
    path = "/v1/snapshots/{name}",
    operation_id = "deleteSnapshot",
    tag = "capsules",
    params(NameParam),
    responses((status = 204, description = "It is gone"), HostErrors)
)]
pub async fn delete(State(api): State<Arc<Api>>, _: Caller, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let is_base = api.host.describe().await?.templates.contains(&name);
    Err(match is_base {
        true => ApiError::new(StatusCode::FORBIDDEN, "forbidden", "the template came with the server"),
        false => ApiError::new(StatusCode::NOT_FOUND, "not_found", "template not found"),
    })
}
