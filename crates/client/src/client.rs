//! The client itself and its plain calls: one method a route.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};

use crate::http::Call;
use crate::types::ExecResponse;
use crate::{
    BadKey, BadUrl, CreateSandbox, Error, ExecOutput, ExecRequest, Footprint, Health, ListFilter, Sandbox, SandboxId,
    SpawnBenchmark,
};

pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For what the server answers from its own tables.
pub(crate) const QUERY_LIMIT: Duration = Duration::from_secs(30);
/// For what moves virtual machines; the server's own deadlines are shorter.
pub(crate) const LIFECYCLE_LIMIT: Duration = Duration::from_secs(240);
/// For what comes on top of a command's own time limit.
const EXEC_MARGIN: Duration = Duration::from_secs(30);
/// The server's limit for a command that asks for none.
const DEFAULT_EXEC_SECONDS: u32 = 30;

/// A server's address and connections to it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<HeaderValue>,
}

impl Client {
    /// For the server at `base_url`, such as `http://127.0.0.1:8080`. Connects at the first call.
    pub fn new(base_url: &str) -> Result<Self, BadUrl> {
        let base = Url::parse(base_url).map_err(|error| BadUrl::new(base_url, error))?;
        if base.scheme() != "http" || base.host_str().is_none() {
            return Err(BadUrl::new(base_url, "it does not begin with http:// and a host"));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| BadUrl::new(base_url, error))?;
        Ok(Self { http, base, key: None })
    }

    /// The same with an API key for every call.
    pub fn with_key(self, key: &str) -> Result<Self, BadKey> {
        let mut key = HeaderValue::from_str(key).map_err(|_| BadKey)?;
        key.set_sensitive(true);
        Ok(Self { key: Some(key), ..self })
    }

    /// The header for the key, if there is one.
    pub(crate) fn key_header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.key.clone().map(|key| (HeaderName::from_static("x-api-key"), key))
    }

    /// The server's address.
    pub fn base_url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether the server is up, and what it runs on.
    pub async fn health(&self) -> Result<Health, Error> {
        let request = self.request(Method::GET, &["health"]);
        self.call("asking for the server's health").json(request, QUERY_LIMIT).await
    }

    /// Makes a sandbox and returns when it runs. The server goes on when the caller does not wait.
    pub async fn create(&self, wish: &CreateSandbox) -> Result<Sandbox, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes"]).json(wish);
        self.call("creating a sandbox").json(request, LIFECYCLE_LIMIT).await
    }

    /// Every sandbox in every state, the newest first.
    pub async fn list(&self) -> Result<Vec<Sandbox>, Error> {
        let request = self.request(Method::GET, &["v1", "sandboxes"]);
        self.call("listing sandboxes").json(request, QUERY_LIMIT).await
    }

    /// The sandboxes that match, the newest first.
    pub async fn list_matching(&self, filter: &ListFilter) -> Result<Vec<Sandbox>, Error> {
        let statuses = filter.statuses.iter().map(|status| ("status", status.clone()));
        let metadata = filter.metadata.iter().map(|(name, value)| ("metadata", format!("{name}={value}")));
        let mut url = self.endpoint(&["v1", "sandboxes"]);
        url.query_pairs_mut().extend_pairs(statuses.chain(metadata));
        let request = self.request_to(Method::GET, url);
        self.call("listing sandboxes").json(request, QUERY_LIMIT).await
    }

    /// One sandbox.
    pub async fn get(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        let request = self.request(Method::GET, &["v1", "sandboxes", id.as_str()]);
        self.call("asking for a sandbox").json(request, QUERY_LIMIT).await
    }

    /// Deletes a sandbox, whatever its state. Deleting one twice is no error.
    pub async fn delete(&self, id: &SandboxId) -> Result<(), Error> {
        let request = self.request(Method::DELETE, &["v1", "sandboxes", id.as_str()]);
        self.call("deleting a sandbox").send(request, Some(LIFECYCLE_LIMIT)).await?;
        Ok(())
    }

    /// Stops a sandbox from executing, until it is resumed.
    pub async fn pause(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "pause"]);
        self.call("pausing a sandbox").json(request, LIFECYCLE_LIMIT).await
    }

    /// Ends what runs in a sandbox, or is paused in it, and keeps its disk.
    pub async fn stop(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "stop"]);
        self.call("stopping a sandbox").json(request, LIFECYCLE_LIMIT).await
    }

    /// Lets a paused sandbox go on, or starts a stopped one.
    pub async fn resume(&self, id: &SandboxId) -> Result<Sandbox, Error> {
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "resume"]);
        self.call("resuming a sandbox").json(request, LIFECYCLE_LIMIT).await
    }

    /// Runs a command to its end and returns its output.
    pub async fn exec(&self, id: &SandboxId, command: &ExecRequest) -> Result<ExecOutput, Error> {
        let call = self.call("running a command");
        let own = match command.timeout_sec {
            None | Some(0) => DEFAULT_EXEC_SECONDS,
            Some(seconds) => seconds,
        };
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "exec"]).json(command);
        let response: ExecResponse =
            call.json(request, Duration::from_secs(own.into()).saturating_add(EXEC_MARGIN)).await?;
        decode(response).map_err(|error| Error::Answer { action: call.action, source: error.into() })
    }

    /// Times process starts inside the sandbox.
    pub async fn spawn_benchmark(&self, id: &SandboxId) -> Result<SpawnBenchmark, Error> {
        let request = self.request(Method::GET, &["v1", "sandboxes", id.as_str(), "benchmark"]);
        self.call("timing process starts in the guest").json(request, LIFECYCLE_LIMIT).await
    }

    /// What a running sandbox costs its host.
    pub async fn footprint(&self, id: &SandboxId) -> Result<Footprint, Error> {
        let request = self.request(Method::GET, &["v1", "sandboxes", id.as_str(), "footprint"]);
        self.call("asking what a sandbox costs").json(request, QUERY_LIMIT).await
    }

    pub(crate) fn call(&self, action: &'static str) -> Call<'_> {
        Call { action, base: self.base_url() }
    }

    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request_to(method, self.endpoint(path))
    }

    pub(crate) fn request_to(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match self.key_header() {
            Some((name, key)) => request.header(name, key),
            None => request,
        }
    }

    /// The address of a route, below whatever path the base has.
    pub(crate) fn endpoint(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }
}

fn decode(response: ExecResponse) -> Result<ExecOutput, base64::DecodeError> {
    let bytes = |text: String| match response.encoding.as_str() {
        "base64" => BASE64_STANDARD.decode(text),
        _ => Ok(text.into_bytes()),
    };
    Ok(ExecOutput {
        stdout: bytes(response.stdout)?,
        stderr: bytes(response.stderr)?,
        exit_code: response.exit_code,
        duration: Duration::from_millis(response.duration_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_with_a_host_are_taken() {
        for bad in ["", "127.0.0.1:8080", "localhost:8080", "https://example.org", "ftp://x", "http://", "unix:/x"] {
            let error = Client::new(bad).unwrap_err().to_string();
            assert!(error.contains("http://127.0.0.1:8080"), "{error}");
        }
        assert_eq!(Client::new("http://127.0.0.1:8080/").unwrap().base_url(), "http://127.0.0.1:8080");
    }

    #[test]
    fn routes_stand_below_the_path_of_the_base() {
        for base in ["http://h/api", "http://h/api/"] {
            let url = Client::new(base).unwrap().endpoint(&["v1", "sandboxes"]);
            assert_eq!(url.as_str(), "http://h/api/v1/sandboxes");
        }
    }
}
