//! Files in and out of a sandbox, streamed: neither side holds a file in memory.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use serde_json::json;
use tokio::sync::oneshot;

use crate::{Client, Error, SandboxId};

impl Client {
    /// Writes a file, making the directories above it. `size` is sent ahead where it is known.
    pub async fn write_file(
        &self,
        id: &SandboxId,
        path: &str,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        size: Option<u64>,
    ) -> Result<(), Error> {
        let (report, mut reading_failed) = oneshot::channel();
        let body = Body::wrap_stream(reporting(content, report));
        let part = match size {
            Some(size) => Part::stream_with_length(body, size),
            None => Part::stream(body),
        };
        // The path goes first, so that the server can pass the file on while it arrives.
        let form = Form::new().text("path", path.to_owned()).part("file", part.file_name("file"));
        let request = self.request(Method::POST, &["v1", "sandboxes", id.as_str(), "files", "write"]).multipart(form);
        let sent = self.call("uploading a file").send(request, None).await;
        match (sent, reading_failed.try_recv()) {
            (Err(_), Ok(error)) => Err(Error::Upload(error.into())),
            (Err(error), Err(_)) => Err(error),
            (Ok(_), _) => Ok(()),
        }
    }

    /// Reads a file. The stream ends with an error when the connection ends before the file does.
    pub async fn read_file(
        &self,
        id: &SandboxId,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + Unpin + use<>, Error> {
        let request = self
            .request(Method::POST, &["v1", "sandboxes", id.as_str(), "files", "read"])
            .json(&json!({ "path": path }));
        let response = self.call("downloading a file").send(request, None).await?;
        let client = self.clone();
        let failure = move |error| client.call("downloading a file").failure(error, None);
        Ok(response.bytes_stream().map_err(failure).boxed())
    }
}

/// Passes `content` on and keeps the error that it may end with, which the HTTP layer would hide.
fn reporting(
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    report: oneshot::Sender<io::Error>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let mut report = Some(report);
    content.map(move |item| {
        item.map_err(|error| {
            let cut = io::Error::new(error.kind(), "the data to upload ended early");
            if let Some(report) = report.take() {
                // Nobody listens only when the request is already over.
                let _ = report.send(error);
            }
            cut
        })
    })
}
