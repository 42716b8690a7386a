//! One request and its answer: sending with a deadline, telling failures apart, reading JSON.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;

use crate::{ApiError, Error};

/// Error bodies are short; nobody needs more of a strange one.
const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// Names a request in errors.
pub(crate) struct Call<'a> {
    pub action: &'static str,
    pub base: &'a str,
}

impl Call<'_> {
    /// Sends and returns a successful answer's head, within `limit` if there is one.
    pub async fn send(&self, request: RequestBuilder, limit: Option<Duration>) -> Result<Response, Error> {
        let request = match limit {
            Some(limit) => request.timeout(limit),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.failure(error, limit))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await.into()) }
    }

    /// Sends and reads a JSON answer.
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder, limit: Duration) -> Result<T, Error> {
        let response = self.send(request, Some(limit)).await?;
        let body = response.bytes().await.map_err(|error| self.failure(error, Some(limit)))?;
        serde_json::from_slice(&body).map_err(|source| Error::Answer { action: self.action, source: source.into() })
    }

    /// What the transport's error means to the caller.
    pub fn failure(&self, error: reqwest::Error, limit: Option<Duration>) -> Error {
        let base = self.base.to_owned();
        let action = self.action;
        if error.is_connect() {
            return Error::Connect { base, source: error.without_url().into() };
        }
        if let (true, Some(limit)) = (error.is_timeout(), limit) {
            return Error::Timeout { action, base, limit };
        }
        Error::BrokeOff { action, base, source: error.without_url().into() }
    }

    async fn refusal(&self, mut response: Response) -> ApiError {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // A body that breaks off still tells the status, which is the most important part.
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= ERROR_BODY_LIMIT {
                break;
            }
        }
        ApiError::from_response(status, &body)
    }
}
