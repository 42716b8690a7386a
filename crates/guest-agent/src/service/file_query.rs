//! The query of `/files`: which file, as whom, and by what right. Knows nothing of its content.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::Query;
use http::{HeaderMap, Uri};
use serde::Deserialize;

use super::Agent;
use super::error::HttpError;
use super::gate::token_of;
use crate::auth::{self, Operation, Refusal, Signed};
use crate::settings::Settings;
use crate::users::{self, User};

/// Which file, as whom, and by what right.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FileQuery {
    /// As the client writes it; uploads may name their files otherwise.
    pub path: Option<String>,
    /// The user to act as.
    pub username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<i64>,
}

impl FileQuery {
    /// Reads the query and checks its right to `operation`.
    pub fn authorise(
        agent: &Agent,
        uri: &Uri,
        headers: &HeaderMap,
        operation: Operation,
    ) -> Result<(Self, Arc<Settings>), HttpError> {
        let settings = agent.settings.current();
        if !settings.initialised {
            return Err(Refusal::NotInitialised.into());
        }
        let query = Query::<Self>::try_from_uri(uri).map_err(|error| HttpError::bad_request(error.body_text()))?.0;
        if let Some(token) = &settings.token {
            let signed = Signed {
                path: query.path.as_deref().unwrap_or_default(),
                operation,
                user: query.username.as_deref().unwrap_or_default(),
                expiration: query.signature_expiration,
                signature: query.signature.as_deref(),
            };
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            auth::check_file(token, token_of(headers), signed, now.try_into().unwrap_or(i64::MAX))?;
        }
        Ok((query, settings))
    }

    /// The account to act as. Reads files.
    pub fn user(&self, settings: &Settings) -> Result<User, HttpError> {
        let named = self.username.as_deref().filter(|name| !name.is_empty());
        Ok(users::lookup(named.unwrap_or(&settings.default_user))?)
    }
}
