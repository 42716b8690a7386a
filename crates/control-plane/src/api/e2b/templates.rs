//! Templates that this server has, and a caller's snapshots among them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use model::{OwnerId, Shape};
use serde_json::{Value, json as value};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::CONTRACT;
use super::names::{self, TAG, build_id, no_template, of_snapshot};
use crate::store::Snapshot;

/// A template in the form of the contract. When it was built is not kept.
fn view(name: &str, aliases: &[String], shape: &Shape, at: Timestamp) -> Value {
    let at = at.to_string();
    value!({
        "templateID": name,
        "buildID": build_id(name),
        "cpuCount": shape.vcpus.get(),
        "memoryMB": shape.memory.get(),
        "diskSizeMB": shape.disk.get(),
        "public": false,
        "aliases": aliases,
        "names": aliases.iter().map(|alias| names::qualified(alias)).collect::<Vec<_>>(),
        "createdAt": at,
        "updatedAt": at,
        "createdBy": null,
        "lastSpawnedAt": null,
        "spawnCount": 0,
        "buildCount": 1,
        "envdVersion": CONTRACT,
        "buildStatus": "ready",
    })
}

fn of_template(name: &str) -> Value {
    view(name, &[name.to_owned()], &Shape::default(), Timestamp::UNIX_EPOCH)
}

fn of_own(snapshot: &Snapshot) -> Value {
    let aliases: Vec<_> = snapshot.name.iter().map(ToString::to_string).collect();
    view(&of_snapshot(snapshot), &aliases, &snapshot.shape, snapshot.created_at)
}

impl Api {
    /// Whether the host has built a template of this name.
    pub(super) async fn has_template(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.host.describe().await?.templates.iter().any(|template| template == name))
    }

    /// A template or a snapshot, by any of its names.
    async fn template(&self, owner: &OwnerId, text: &str) -> Result<Value, ApiError> {
        let name = names::bare(text).ok_or_else(|| no_template(text))?;
        if self.has_template(name).await? {
            return Ok(of_template(name));
        }
        let snapshot = match name.parse() {
            Ok(wanted) => self.store.get_snapshot(owner, &wanted).await?,
            Err(_) => None,
        };
        snapshot.map(|snapshot| of_own(&snapshot)).ok_or_else(|| no_template(text))
    }
}

pub async fn list(State(api): State<Arc<Api>>, Caller(_): Caller) -> Result<Response, ApiError> {
    let templates: Vec<_> = api.host.describe().await?.templates.iter().map(|name| of_template(name)).collect();
    Ok(json(StatusCode::OK, &templates))
}

/// None is anybody's default in particular.
pub async fn defaults(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, ApiError> {
    list(State(api), caller).await
}

pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let mut template = api.template(&owner, &id).await?;
    let same = |name: &str| template[name].clone();
    let build = value!({
        "buildID": same("buildID"),
        "status": "ready",
        "createdAt": same("createdAt"),
        "updatedAt": same("updatedAt"),
        "finishedAt": same("updatedAt"),
        "cpuCount": same("cpuCount"),
        "memoryMB": same("memoryMB"),
        "diskSizeMB": same("diskSizeMB"),
        "envdVersion": CONTRACT,
    });
    template["builds"] = value!([build]);
    Ok(json(StatusCode::OK, &template))
}

pub async fn alias(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(alias): Path<String>,
) -> Result<Response, ApiError> {
    let template = api.template(&owner, &alias).await?;
    Ok(json(StatusCode::OK, &value!({"templateID": template["templateID"], "public": false})))
}

pub async fn tags(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let template = api.template(&owner, &id).await?;
    let tag = value!({"tag": TAG, "buildID": template["buildID"], "createdAt": template["createdAt"]});
    Ok(json(StatusCode::OK, &[tag]))
}
