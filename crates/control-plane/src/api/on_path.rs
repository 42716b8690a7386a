//! Requests that name a path in a sandbox that runs, in a JSON body.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use model::SandboxId;
use serde::de::DeserializeOwned;

use super::Api;
use super::error::ApiError;
use super::request::{Caller, InPath, read_json, without_nul};

/// The kernel's limit.
pub const MAX_PATH: usize = 4096;

/// A body that names a path.
pub trait NamesPath: DeserializeOwned + Send {
    /// The path that it names.
    fn path(&self) -> &str;
}

/// Such a request: its sandbox runs, its path can be one, and it counts as a use.
pub struct OnPath<T> {
    /// The sandbox.
    pub id: SandboxId,
    /// The body.
    pub body: T,
}

impl<T: NamesPath> FromRequest<Arc<Api>> for OnPath<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Caller(owner) = Caller::from_request_parts(&mut parts, api).await?;
        let InPath(id) = InPath::from_request_parts(&mut parts, api).await?;
        let sandbox = api.running(&owner, &id).await?;
        let body: T = read_json(body, api.limits.json_body).await?;
        check_path(body.path())?;
        api.touch(&sandbox).await;
        Ok(Self { id, body })
    }
}

/// Whether a path can be one.
pub fn check_path(path: &str) -> Result<(), ApiError> {
    if path.is_empty() {
        return Err(ApiError::invalid_request("path is required"));
    }
    if path.len() > MAX_PATH {
        return Err(ApiError::invalid_request(format!("path is longer than {MAX_PATH} bytes")));
    }
    without_nul("path", path)
}
