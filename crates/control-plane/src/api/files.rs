//! Files: bytes pass through, none is held whole.
//!
//! An upload is `multipart/form-data`. With `path` before `file` it is streamed as it arrives; a file that comes
//! first must wait for its path and is kept in an unnamed temporary file meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use super::Api;
use super::error::ApiError;
use super::on_path::{MAX_PATH, NamesPath, OnPath, check_path};
use super::openapi::{FileBytes, HostErrors, JsonErrors, SandboxIdParam, UploadErrors};
use super::request::{Caller, InPath};
use model::{OwnerId, SandboxId};

use crate::host::file_body;
use crate::store::Sandbox;

/// Chunks of an upload on their way between the client and the host agent.
const CHUNKS_UNDER_WAY: usize = 4;

/// How long the rest of a refused upload is read and thrown away: a client that is cut off while it sends may never
/// see the answer.
const DISCARD: Duration = Duration::from_secs(10);

/// Which file to read.
#[derive(Deserialize, ToSchema)]
#[schema(as = ReadFileRequest)]
pub struct ReadRequest {
    /// A relative path starts at the home of the template's default user.
    #[serde(default)]
    #[schema(required, min_length = 1, max_length = 4096, pattern = "^[^\\u0000]+$")]
    path: String,
}

impl NamesPath for ReadRequest {
    fn path(&self) -> &str {
        &self.path
    }
}

/// A file and where it goes; `path` first lets the file be streamed.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the fields of a form, which is read part by part")]
struct UploadForm {
    /// A relative path starts at the home of the template's default user; missing directories are made.
    #[schema(min_length = 1, max_length = 4096, pattern = "^[^\\u0000]+$")]
    path: String,
    /// The file's bytes.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Read a file
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/read",
    operation_id = "downloadFile",
    tag = "files",
    params(SandboxIdParam),
    request_body = ReadRequest,
    responses(
        (
            status = 200,
            description = "The file's bytes",
            body = inline(FileBytes),
            content_type = "application/octet-stream"
        ),
        JsonErrors,
        HostErrors
    )
)]
pub async fn read(State(api): State<Arc<Api>>, OnPath { id, body }: OnPath<ReadRequest>) -> Result<Response, ApiError> {
    let file = api.host.read_file(&id, &body.path).await?;
    let mut response = Response::builder().status(StatusCode::OK).header(CONTENT_TYPE, "application/octet-stream");
    if let Some(length) = file.headers().get(CONTENT_LENGTH) {
        response = response.header(CONTENT_LENGTH, length);
    }
    response.body(Body::new(file.into_body())).map_err(|error| ApiError::invalid_request(error.to_string()))
}

/// Read a large file
///
/// The same under the name that clients of capsules call.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/stream/read",
    operation_id = "streamDownload",
    tag = "files",
    params(SandboxIdParam),
    request_body = ReadRequest,
    responses(
        (
            status = 200,
            description = "The file's bytes",
            body = inline(FileBytes),
            content_type = "application/octet-stream"
        ),
        JsonErrors,
        HostErrors
    )
)]
pub async fn stream_read(api: State<Arc<Api>>, request: OnPath<ReadRequest>) -> Result<Response, ApiError> {
    read(api, request).await
}

/// Write a file
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/write",
    operation_id = "uploadFile",
    tag = "files",
    params(SandboxIdParam),
    request_body(content = inline(UploadForm), content_type = "multipart/form-data"),
    responses((status = 204, description = "The file is written"), HostErrors, UploadErrors)
)]
pub async fn write(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    request: Request,
) -> Result<StatusCode, ApiError> {
    receive(&api, &owner, &id, request, api.limits.upload).await
}

/// Write a large file
///
/// The same without a limit on the file's size.
#[utoipa::path(
    post,
    path = "/v1/sandboxes/{id}/files/stream/write",
    operation_id = "streamUpload",
    tag = "files",
    params(SandboxIdParam),
    request_body(content = inline(UploadForm), content_type = "multipart/form-data"),
    responses((status = 204, description = "The file is written"), HostErrors)
)]
pub async fn stream_write(
    State(api): State<Arc<Api>>,
    Caller(owner): Caller,
    InPath(id): InPath,
    request: Request,
) -> Result<StatusCode, ApiError> {
    receive(&api, &owner, &id, request, u64::MAX).await
}

async fn receive(
    api: &Api,
    owner: &OwnerId,
    id: &SandboxId,
    request: Request,
    limit: u64,
) -> Result<StatusCode, ApiError> {
    let sandbox = api.running(owner, id).await?;
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|_| ApiError::invalid_request("expected multipart/form-data"))?;
    api.touch(&sandbox).await;
    let result = upload(api, &sandbox, &mut form, limit).await;
    if result.is_err() {
        // Whether or not all of it can be read: the answer is decided.
        let _ = tokio::time::timeout(DISCARD, discard(&mut form)).await;
    }
    result.map(|()| StatusCode::NO_CONTENT)
}

async fn discard(form: &mut Multipart) {
    while let Ok(Some(mut field)) = form.next_field().await {
        while let Ok(Some(_)) = field.chunk().await {}
    }
}

async fn upload(api: &Api, sandbox: &Sandbox, form: &mut Multipart, limit: u64) -> Result<(), ApiError> {
    let mut path = None;
    let mut spooled = None;
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        match (field.name(), &path) {
            (Some("path"), _) => path = Some(read_path(field).await?),
            (Some("file"), Some(path)) => return stream(api, sandbox, path, field, limit).await,
            (Some("file"), None) => spooled = Some(spool(field, limit).await?),
            _ => {}
        }
    }
    match (path, spooled) {
        (Some(path), Some(file)) => send_spooled(api, sandbox, &path, file).await,
        (None, _) => Err(ApiError::invalid_request("path field is required")),
        (_, None) => Err(ApiError::invalid_request("file field is required")),
    }
}

fn unreadable(error: axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::invalid_request(format!("the multipart body is broken: {error}"))
}

async fn read_path(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_PATH {
            return Err(ApiError::invalid_request(format!("path is longer than {MAX_PATH} bytes")));
        }
    }
    let path = String::from_utf8(bytes).map_err(|_| ApiError::invalid_request("path is not UTF-8"))?;
    if path.is_empty() {
        return Err(ApiError::invalid_request("path field is required"));
    }
    check_path(&path)?;
    Ok(path)
}

/// Counts the file's own bytes, whatever surrounds them.
struct Counter {
    left: u64,
    limit: u64,
}

impl Counter {
    fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    fn count(&mut self, chunk: &Bytes) -> Result<(), ApiError> {
        let left = self.left.checked_sub(chunk.len() as u64);
        self.left =
            left.ok_or_else(|| ApiError::too_large(format!("file exceeds the limit of {} bytes", self.limit)))?;
        Ok(())
    }
}

/// Passes a file on while it arrives.
async fn stream(api: &Api, sandbox: &Sandbox, path: &str, field: Field<'_>, limit: u64) -> Result<(), ApiError> {
    let (chunks, body) = mpsc::channel(CHUNKS_UNDER_WAY);
    let (sent, all_sent) = oneshot::channel();
    let pass_on = async {
        let result = pump(field, chunks, limit).await;
        drop(sent);
        result
    };
    let write = api.host.write_file(&sandbox.id, path, file_body(complete(body)), dropped(all_sent));
    tokio::pin!(pass_on, write);
    tokio::select! {
        // First, because what is wrong with the upload also breaks the write.
        biased;
        passed_on = &mut pass_on => {
            passed_on?;
            Ok(write.await?)
        }
        written = &mut write => Ok(written?),
    }
}

/// A part of a file, or its end.
enum Part {
    Chunk(Bytes),
    End,
}

/// The body ends with an error unless its end was said: a client that hangs up must not leave a part of its file
/// that looks like the whole.
fn complete(parts: mpsc::Receiver<Part>) -> impl Stream<Item = Result<Bytes, &'static str>> {
    futures::stream::try_unfold(parts, async |mut parts| match parts.recv().await {
        Some(Part::Chunk(chunk)) => Ok(Some((chunk, parts))),
        Some(Part::End) => Ok(None),
        None => Err("the upload was broken off"),
    })
}

async fn pump(mut field: Field<'_>, parts: mpsc::Sender<Part>, limit: u64) -> Result<(), ApiError> {
    let mut counter = Counter::new(limit);
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        counter.count(&chunk)?;
        if parts.send(Part::Chunk(chunk)).await.is_err() {
            // Nobody takes it any more; the write says why.
            return Ok(());
        }
    }
    // As above.
    let _ = parts.send(Part::End).await;
    Ok(())
}

/// Resolves when the other end is gone.
async fn dropped(receiver: oneshot::Receiver<()>) {
    let _ = receiver.await;
}

async fn spool(mut field: Field<'_>, limit: u64) -> Result<tokio::fs::File, ApiError> {
    let mut counter = Counter::new(limit);
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(|error| unspooled(&error))?);
    while let Some(chunk) = field.chunk().await.map_err(unreadable)? {
        counter.count(&chunk)?;
        file.write_all(&chunk).await.map_err(|error| unspooled(&error))?;
    }
    file.rewind().await.map_err(|error| unspooled(&error))?;
    Ok(file)
}

fn unspooled(error: &io::Error) -> ApiError {
    tracing::error!(error = error as &dyn std::error::Error, "cannot keep an upload that begins with its file");
    let message = "no room to keep the file until its path arrives; send path before file";
    ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message)
}

async fn send_spooled(api: &Api, sandbox: &Sandbox, path: &str, file: tokio::fs::File) -> Result<(), ApiError> {
    let (sent, all_sent) = oneshot::channel();
    let body = file_body(until_dropped(ReaderStream::new(file), sent));
    Ok(api.host.write_file(&sandbox.id, path, body, dropped(all_sent)).await?)
}

/// The stream, with a guard that is dropped together with it.
fn until_dropped<S: Stream, T>(stream: S, guard: T) -> impl Stream<Item = S::Item> {
    stream.map(move |item| {
        let _ = &guard;
        item
    })
}
