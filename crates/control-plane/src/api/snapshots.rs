//! Snapshots: what was captured of sandboxes, in one list with the templates that came with the server, which clients of
//! capsules take for the same thing.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use futures::TryFutureExt;
use http::StatusCode;
use http::request::Parts;
use model::{Extent, OwnerId, SandboxId, SnapshotId, SnapshotRef, SnapshotStatus, Tag};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::ApiError;
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam, schema};
use super::origin::{NAME_PATTERN, name_of};
use super::request::{Caller, InPath, in_path, in_time, json as json_answer, read_json};
use super::sandboxes::seconds;
use super::stats::in_query;
use super::surface::Surface;
use crate::store::{Naming, Snapshot, SnapshotFilter};

/// How to keep a sandbox that the path names.
#[derive(Deserialize, ToSchema)]
#[schema(as = SnapshotSandboxRequest)]
struct SnapshotRequest {
    /// Under which name; it is the caller's own.
    #[schema(schema_with = name_schema)]
    name: Option<String>,
}

/// What to keep.
#[derive(Deserialize, ToSchema)]
#[schema(as = CreateSnapshotRequest)]
struct CreateRequest {
    /// The capsule.
    #[serde(default)]
    #[schema(required, min_length = 1)]
    sandbox_id: String,
    /// Under which name; it is the caller's own.
    #[schema(schema_with = name_schema)]
    name: Option<String>,
}

fn name_schema() -> RefOr<Schema> {
    schema(json!({
        "type": ["string", "null"],
        "description": "Under which name; it is the caller's own. Empty means none",
        "pattern": NAME_PATTERN,
    }))
}

fn status_schema() -> RefOr<Schema> {
    let statuses: Vec<_> = SnapshotStatus::ALL.iter().map(|status| status.as_str()).collect();
    schema(json!({"type": "string", "enum": statuses}))
}

/// A snapshot, or a template that came with the server.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = Snapshot)]
struct SnapshotView {
    /// The name or, where it has none, the id: what it is asked for by.
    name: String,
    /// `snapshot`; `base`: it came with the server and has only this, the name and the next two.
    r#type: &'static str,
    platform: bool,
    protected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^sn[a-z0-9]{20}$")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = status_schema)]
    status: Option<&'static str>,
    /// What was captured; it may be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<String>,
    /// What that was made from in the first place.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_mb: Option<u32>,
    /// What its files take on the host's disk; 0 until it is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    /// When a sandbox was last made from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    last_used_at: Option<String>,
}

impl SnapshotView {
    fn base(name: String) -> Self {
        Self { name, r#type: "base", platform: true, protected: true, ..Self::default() }
    }
}

impl From<Snapshot> for SnapshotView {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            name: snapshot.label().to_owned(),
            r#type: "snapshot",
            platform: false,
            protected: false,
            id: Some(snapshot.id.to_string()),
            status: Some(snapshot.status.as_str()),
            sandbox_id: Some(snapshot.sandbox.to_string()),
            template: Some(snapshot.template.to_string()),
            vcpus: Some(snapshot.shape.vcpus.get()),
            memory_mb: Some(snapshot.shape.memory.get()),
            disk_mb: Some(snapshot.shape.disk.get()),
            size_bytes: Some(snapshot.size_bytes),
            created_at: Some(seconds(snapshot.created_at)),
            last_used_at: snapshot.last_used_at.map(seconds),
        }
    }
}

fn view(status: StatusCode, snapshot: Snapshot) -> Response {
    json_answer(status, &SnapshotView::from(snapshot))
}

/// Keep a sandbox as a snapshot
///
/// What it has in memory and on its disk. A running or paused sandbox goes on as it was.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/snapshots",
    operation_id = "snapshotSandbox",
    tag = "snapshots",
    params(SandboxIdParam),
    request_body = SnapshotRequest,
    responses((status = 201, description = "It is kept", body = SnapshotView), JsonErrors, HostErrors)
)]
pub async fn create_of(
    State(api): State<Arc<Api>>,
    surface: Surface,
    Caller(owner): Caller,
    InPath(id): InPath,
    body: Body,
) -> Result<Response, ApiError> {
    api.sandbox(&owner, &id).await?;
    let request: SnapshotRequest = read_json(body, api.limits.json_body).await?;
    let naming = name_of(request.name)?.map_or(Naming::Unnamed, Naming::New);
    capture(&api, surface, owner, id, naming).await
}

async fn capture(
    api: &Api,
    surface: Surface,
    owner: OwnerId,
    sandbox: SandboxId,
    naming: Naming,
) -> Result<Response, ApiError> {
    let id = SnapshotId::random();
    let wanted = SnapshotRef::Id(id.clone());
    let work = api.lifecycle.snapshot(owner.clone(), sandbox, id, naming, Extent::Full).map_err(ApiError::from);
    let so_far = async {
        let recorded = api.store.get_snapshot(&owner, &wanted).await?;
        Ok(recorded.map(|snapshot| view(StatusCode::ACCEPTED, snapshot)))
    };
    in_time(api, surface, work, |snapshot| view(StatusCode::CREATED, snapshot), so_far).await
}

struct OverwriteParam;

impl IntoParams for OverwriteParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let words = "Whether the name is taken from the snapshot that has it, which is deleted when this one is ready";
        vec![in_the_query("overwrite", words, json!({"type": "boolean", "default": false}))]
    }
}

fn in_the_query(name: &str, description: &str, value: serde_json::Value) -> Parameter {
    let builder = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
    builder.description(Some(description)).schema(Some(schema(value))).build()
}

/// Keep a capsule as a snapshot
///
/// A running or paused capsule goes on as it was. The snapshot's name can then be given as `template` to create.
#[utoipa::path(
    post,
    path = "/v1/snapshots",
    operation_id = "createSnapshot",
    tag = "snapshots",
    params(OverwriteParam),
    request_body = CreateRequest,
    responses(
        (status = 201, description = "It is kept", body = SnapshotView),
        (status = 202, description = "It takes longer; its status says how it goes", body = SnapshotView),
        JsonErrors,
        HostErrors
    )
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    uri: http::Uri,
    body: Body,
) -> Result<Response, ApiError> {
    let request: CreateRequest = read_json(body, api.limits.json_body).await?;
    if request.sandbox_id.is_empty() {
        return Err(ApiError::invalid_request("sandbox_id is required"));
    }
    let naming = match (name_of(request.name)?, in_query(&uri, "overwrite").as_deref()) {
        (None, None | Some("true" | "false")) => Naming::Unnamed,
        (Some(name), None | Some("false")) => Naming::New(name),
        (Some(name), Some("true")) => Naming::Replacing(name, Tag::Default),
        (_, Some(_)) => return Err(ApiError::invalid_request("overwrite must be true or false")),
    };
    let sandbox = request.sandbox_id.parse().map_err(|_| ApiError::no_sandbox())?;
    capture(&api, Surface::Capsules, owner, sandbox, naming).await
}

/// Which of them a list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Base,
    Snapshot,
}

struct ListParams;

impl IntoParams for ListParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let template = json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"});
        let sandbox = json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"});
        vec![
            in_the_query("type", "Only those of this type", json!({"type": "string", "enum": ["base", "snapshot"]})),
            in_the_query("sandbox_id", "Only snapshots of this sandbox", sandbox),
            in_the_query("template", "Only snapshots of sandboxes that were made from this template", template),
        ]
    }
}

/// List snapshots
///
/// The templates that came with the server, then the caller's snapshots, the newest first.
#[utoipa::path(
    get,
    path = "/v1/snapshots",
    operation_id = "listSnapshots",
    tag = "snapshots",
    params(ListParams),
    responses((status = 200, description = "Those that match", body = [SnapshotView]), HostErrors)
)]
pub async fn list(State(api): State<Arc<Api>>, Caller(owner): Caller, uri: http::Uri) -> Result<Response, ApiError> {
    let (kinds, filter) = wanted(&uri)?;
    let mut all = Vec::new();
    if kinds != Kinds::Snapshot {
        all.extend(api.host.describe().await?.templates.into_iter().map(SnapshotView::base));
    }
    if kinds != Kinds::Base {
        all.extend(api.store.list_snapshots(&owner, &filter).await?.into_iter().map(SnapshotView::from));
    }
    Ok(json_answer(StatusCode::OK, &all))
}

fn wanted(uri: &http::Uri) -> Result<(Kinds, SnapshotFilter), ApiError> {
    let invalid = |error: &dyn std::error::Error| ApiError::invalid_request(error.to_string());
    let filter = SnapshotFilter {
        sandbox: in_query(uri, "sandbox_id")
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: model::InvalidId| invalid(&error))?,
        template: in_query(uri, "template")
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: model::InvalidTemplateName| invalid(&error))?,
    };
    let kinds = match in_query(uri, "type").as_deref() {
        None if filter == SnapshotFilter::default() => Kinds::All,
        // What came with the server was captured of nothing.
        None | Some("snapshot") => Kinds::Snapshot,
        Some("base") => Kinds::Base,
        Some(_) => return Err(ApiError::invalid_request("type must be base or snapshot")),
    };
    Ok((kinds, filter))
}

/// The `{name}` of a path: a snapshot's name or id. What is neither is the name of no snapshot.
pub struct Named(SnapshotRef);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = in_path(parts, state, "name").await.unwrap_or_default();
        text.parse().map(Self).map_err(|_| ApiError::not_found("snapshot not found"))
    }
}

struct NameParam;

impl IntoParams for NameParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let builder = ParameterBuilder::new().name("name").parameter_in(ParameterIn::Path);
        let builder = builder.required(utoipa::openapi::Required::True).description(Some("The snapshot's name or id"));
        vec![builder.schema(Some(schema(json!({"type": "string", "minLength": 1})))).build()]
    }
}

/// Look at a snapshot
#[utoipa::path(
    get,
    path = "/v1/snapshots/{name}",
    operation_id = "getSnapshot",
    tag = "snapshots",
    params(NameParam),
    responses((status = 200, description = "Its record", body = SnapshotView), HostErrors)
)]
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(wanted): Named,
) -> Result<Response, ApiError> {
    if let Some(snapshot) = api.store.get_snapshot(&owner, &wanted).await? {
        return Ok(view(StatusCode::OK, snapshot));
    }
    match api.template_named(&wanted).await? {
        Some(name) => Ok(json_answer(StatusCode::OK, &SnapshotView::base(name))),
        None => Err(ApiError::not_found("snapshot not found")),
    }
}

/// Delete a snapshot
///
/// Not one that live sandboxes came from: 409; not one that came with the server: 403.
#[utoipa::path(
    delete,
    path = "/v1/snapshots/{name}",
    operation_id = "deleteSnapshot",
    tag = "snapshots",
    params(NameParam),
    responses((status = 204, description = "It is gone"), HostErrors)
)]
pub async fn delete(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Named(wanted): Named,
) -> Result<StatusCode, ApiError> {
    let is_own = api.store.get_snapshot(&owner, &wanted).await?.is_some();
    if !is_own && api.template_named(&wanted).await?.is_some() {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", "the template came with the server"));
    }
    api.lifecycle.delete_snapshot(owner, wanted).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    /// The template of that name, if the server has one.
    async fn template_named(&self, wanted: &SnapshotRef) -> Result<Option<String>, ApiError> {
        let SnapshotRef::Name(name) = wanted else { return Ok(None) };
        let templates = self.host.describe().await?.templates;
        Ok(templates.into_iter().find(|template| template == name.as_str()))
    }
}
