//! Tags: given to what is there, taken away, looked at.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use model::{GivenTag, Tag};
use serde::Deserialize;
use serde_json::json as value;

use super::super::Api;
use super::super::error::ApiError;
use super::super::request::{Caller, json, read_json};
use super::super::stats::in_query;
use super::builds::Tagged;
use super::names::{Reference, new_tag, no_template};

/// Tags in one request.
const MOST: usize = 100;

#[derive(Deserialize)]
struct AssignRequest {
    target: String,
    tags: Vec<String>,
}

#[derive(Deserialize)]
struct RemoveRequest {
    name: String,
    tags: Vec<String>,
}

fn tags_of(given: &[String]) -> Result<Vec<Tag>, ApiError> {
    if given.is_empty() || given.len() > MOST {
        return Err(ApiError::invalid_request(format!("tags must have 1 to {MOST} of them")));
    }
    given.iter().map(|tag| new_tag(tag)).collect()
}

/// Tags for the build behind what a request names: the one with the tag that it says, or the default one.
pub async fn assign(State(api): State<Arc<Api>>, Caller(owner): Caller, body: Body) -> Result<Response, ApiError> {
    let request: AssignRequest = read_json(body, api.limits.json_body).await?;
    let tags = tags_of(&request.tags)?;
    let template = api.template(&owner, &request.target).await?;
    let tag = Reference::read(&request.target).and_then(|target| target.tag).unwrap_or(Tag::Default);
    let Tagged { build, .. } = template.under(&tag).cloned().ok_or_else(|| no_template(&request.target))?;
    let id = build.id();
    if !api.store.assign_tags(&owner, &template.name, &tags, &build.meant()).await? {
        return Err(no_template(&request.target));
    }
    let tags: Vec<_> = tags.iter().map(Tag::as_str).collect();
    Ok(json(StatusCode::CREATED, &value!({"tags": tags, "buildID": id})))
}

/// What a tag stood for goes on without it.
pub async fn remove(State(api): State<Arc<Api>>, Caller(owner): Caller, body: Body) -> Result<StatusCode, ApiError> {
    let request: RemoveRequest = read_json(body, api.limits.json_body).await?;
    if request.name.contains(':') {
        return Err(ApiError::invalid_request("name must be without a tag"));
    }
    let given = |tag| match tag {
        Tag::Given(tag) => Ok(tag),
        Tag::Default => Err(ApiError::invalid_request("the tag 'default' cannot be removed")),
    };
    let tags: Vec<GivenTag> = tags_of(&request.tags)?.into_iter().map(given).collect::<Result<_, _>>()?;
    let template = api.template(&owner, &request.name).await?;
    api.store.remove_tags(&owner, &template.name, &tags).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn list(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let template = api.template(&owner, &id).await?;
    let view = |tagged: &Tagged| {
        let since = tagged.assigned_at.to_string();
        value!({"tag": tagged.tag.as_str(), "buildID": tagged.build.id(), "createdAt": since})
    };
    Ok(json(StatusCode::OK, &template.tagged().map(view).collect::<Vec<_>>()))
}

pub async fn count(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let total = api.template(&owner, &id).await?.tagged().count();
    Ok(json(StatusCode::OK, &value!({ "total": total })))
}

pub async fn exists(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let tag = new_tag(&in_query(&uri, "tag").unwrap_or_default())?;
    let exists = api.template(&owner, &id).await?.under(&tag).is_some();
    Ok(json(StatusCode::OK, &value!({"exists": exists, "normalizedTag": tag.as_str()})))
}
