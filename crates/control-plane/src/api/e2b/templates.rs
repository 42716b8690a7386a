//! Templates that this server has, and a caller's snapshots among them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde_json::{Value, json as value};

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json};
use super::CONTRACT;
use super::builds::{Build, Template};
use super::names::{aliases, names};
use super::pages;

/// A template in the form of the contract.
fn view(template: &Template) -> Value {
    let build = template.build();
    let made_at = build.made_at().to_string();
    value!({
        "templateID": template.name.to_string(),
        "buildID": build.id(),
        "cpuCount": build.shape().vcpus.get(),
        "memoryMB": build.shape().memory.get(),
        "diskSizeMB": build.shape().disk.get(),
        "public": false,
        "aliases": aliases(&template.name),
        "names": names(&template.name),
        "createdAt": made_at,
        "updatedAt": made_at,
        "createdBy": null,
        "lastSpawnedAt": null,
        "spawnCount": 0,
        "buildCount": template.builds().len(),
        "envdVersion": CONTRACT,
        "buildStatus": "ready",
    })
}

fn build_view(build: &Build) -> Value {
    let made_at = build.made_at().to_string();
    value!({
        "buildID": build.id(),
        "status": "ready",
        "createdAt": made_at,
        "updatedAt": made_at,
        "finishedAt": made_at,
        "cpuCount": build.shape().vcpus.get(),
        "memoryMB": build.shape().memory.get(),
        "diskSizeMB": build.shape().disk.get(),
        "envdVersion": CONTRACT,
    })
}

impl Api {
    /// What came with the server, by name.
    async fn templates(&self) -> Result<Vec<Template>, ApiError> {
        Ok(self.template_builds().await?.into_iter().filter_map(Template::of_server).collect())
    }
}

pub async fn list(State(api): State<Arc<Api>>, Caller(_): Caller) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &api.templates().await?.iter().map(view).collect::<Vec<_>>()))
}

/// The same in pages.
pub async fn pages(State(api): State<Arc<Api>>, Caller(_): Caller, uri: Uri) -> Result<Response, ApiError> {
    pages::answer(&uri, api.templates().await?, |template| template.name.to_string(), |template| view(&template))
}

/// None is anybody's default in particular.
pub async fn defaults(State(api): State<Arc<Api>>, caller: Caller) -> Result<Response, ApiError> {
    list(State(api), caller).await
}

/// A template with a page of its builds.
pub async fn get(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let template = api.template(&owner, &id).await?;
    let (builds, next) = pages::part(&uri, template.builds(), |build| build.id())?;
    let mut told = view(&template);
    told["builds"] = builds.into_iter().map(build_view).collect();
    Ok(pages::going_on(json(StatusCode::OK, &told), next))
}

pub async fn alias(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(alias): Path<String>,
) -> Result<Response, ApiError> {
    let template = api.template(&owner, &alias).await?;
    Ok(json(StatusCode::OK, &value!({"templateID": template.name.to_string(), "public": false})))
}
