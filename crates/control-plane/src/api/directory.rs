//! Directories: lists of entries, new directories, and removing either.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::Api;
use super::error::ApiError;
use super::on_path::{NamesPath, OnPath};
use super::openapi::{HostErrors, JsonErrors, SandboxIdParam, schema};
use super::request::{json as json_answer, whole};
use crate::host::{Entry, EntryKind};

/// Directories below one another that a list shows.
const MAX_DEPTH: u32 = 100;

/// Which directory to list.
#[derive(Deserialize, ToSchema)]
#[schema(as = ListDirRequest)]
pub struct ListRequest {
    /// A relative path starts at the home of the template's default user.
    #[serde(default)]
    #[schema(required, min_length = 1, max_length = 4096, pattern = "^[^\\u0000]+$")]
    path: String,
    /// How far below it; 0 and 1 are what is in it.
    #[schema(default = 1, minimum = 0, maximum = 100, format = Int64)]
    #[serde(default, deserialize_with = "whole")]
    depth: Option<i64>,
}

/// Which path to make or remove.
#[derive(Deserialize, ToSchema)]
#[schema(as = PathRequest)]
pub struct PathRequest {
    /// A relative path starts at the home of the template's default user.
    #[serde(default)]
    #[schema(required, min_length = 1, max_length = 4096, pattern = "^[^\\u0000]+$")]
    path: String,
}

impl NamesPath for ListRequest {
    fn path(&self) -> &str {
        &self.path
    }
}

impl NamesPath for PathRequest {
    fn path(&self) -> &str {
        &self.path
    }
}

/// Something in a directory.
#[derive(Serialize, ToSchema)]
#[schema(as = FileEntry)]
struct EntryView {
    name: String,
    path: String,
    #[schema(schema_with = kind)]
    r#type: &'static str,
    /// Bytes.
    size: i64,
    /// Permission bits.
    mode: u32,
    #[schema(example = "-rw-r--r--")]
    permissions: String,
    owner: String,
    group: String,
    /// Seconds since 1970.
    modified_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    symlink_target: Option<String>,
}

/// What is in a directory.
#[derive(Serialize, ToSchema)]
#[schema(as = ListDirResponse)]
struct EntryList {
    entries: Vec<EntryView>,
}

/// A directory that was made.
#[derive(Serialize, ToSchema)]
#[schema(as = MakeDirResponse)]
struct Made {
    entry: EntryView,
}

fn kind() -> RefOr<Schema> {
    schema(json!({"type": "string", "enum": ["file", "directory", "symlink"]}))
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        Self {
            name: entry.name,
            path: entry.path,
            r#type: match entry.kind {
                EntryKind::File => "file",
                EntryKind::Directory => "directory",
                EntryKind::Symlink => "symlink",
            },
            size: entry.size,
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            modified_at: entry.modified_at,
            symlink_target: entry.symlink_target,
        }
    }
}

/// List a directory
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/list",
    operation_id = "listDirectory",
    tag = "files",
    params(SandboxIdParam),
    request_body = ListRequest,
    responses((status = 200, description = "What is in it", body = EntryList), JsonErrors, HostErrors)
)]
pub async fn list(State(api): State<Arc<Api>>, OnPath { id, body }: OnPath<ListRequest>) -> Result<Response, ApiError> {
    let depth = depth(body.depth)?;
    let entries = api.host.list_directory(&id, &body.path, depth).await?;
    Ok(json_answer(StatusCode::OK, &EntryList { entries: entries.into_iter().map(EntryView::from).collect() }))
}

fn depth(asked: Option<i64>) -> Result<u32, ApiError> {
    match u32::try_from(asked.unwrap_or(1)) {
        Ok(depth) if depth <= MAX_DEPTH => Ok(depth.max(1)),
        _ => Err(ApiError::invalid_request(format!("depth must be between 0 and {MAX_DEPTH}"))),
    }
}

/// Make a directory
///
/// With those above it that are missing.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/mkdir",
    operation_id = "makeDirectory",
    tag = "files",
    params(SandboxIdParam),
    request_body = PathRequest,
    responses((status = 200, description = "It is there now", body = Made), JsonErrors, HostErrors)
)]
pub async fn make(State(api): State<Arc<Api>>, OnPath { id, body }: OnPath<PathRequest>) -> Result<Response, ApiError> {
    let entry = api.host.make_directory(&id, &body.path).await?.into();
    Ok(json_answer(StatusCode::OK, &Made { entry }))
}

/// Remove a file or a directory
///
/// A directory with everything in it.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/remove",
    operation_id = "removePath",
    tag = "files",
    params(SandboxIdParam),
    request_body = PathRequest,
    responses((status = 204, description = "It is gone"), JsonErrors, HostErrors)
)]
pub async fn remove(
    State(api): State<Arc<Api>>,
    OnPath { id, body }: OnPath<PathRequest>,
) -> Result<StatusCode, ApiError> {
    api.host.remove(&id, &body.path).await?;
    Ok(StatusCode::NO_CONTENT)
}
