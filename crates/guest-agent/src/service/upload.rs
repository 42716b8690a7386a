//! `POST /files`: content of one or more files, written while it arrives.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, header};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Agent;
use super::error::HttpError;
use super::file_query::FileQuery;
use super::packing::{Coding, DRAIN, unpacked};
use crate::auth::Operation;
use crate::files::{self, FileError, Metadata, metadata, path};
use crate::settings::Settings;
use crate::users::User;

/// Pieces that wait for the disk.
const QUEUE: usize = 4;

/// What was written.
#[derive(Debug, Serialize)]
pub struct Written {
    name: String,
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

/// All that a request says about its files, apart from their content.
struct Target {
    query: FileQuery,
    settings: Arc<Settings>,
    user: User,
    metadata: Metadata,
}

/// Writes the files of a request.
pub async fn upload(State(agent): State<Arc<Agent>>, request: Request) -> Result<Json<Vec<Written>>, HttpError> {
    let (query, settings) = FileQuery::authorise(&agent, request.uri(), request.headers(), Operation::Write)?;
    let metadata = attached(request.headers())?;
    let coding = Coding::sent(request.headers())?;
    let lookup = move || query.user(&settings).map(|user| Target { user, query, settings, metadata });
    let target = tokio::task::spawn_blocking(lookup).await.map_err(|error| HttpError::internal(&error))??;
    let request = match coding {
        Coding::Identity => request,
        Coding::Gzip => request.map(unpacked),
    };
    let kind = text(request.headers(), header::CONTENT_TYPE);
    match kind.split(';').next().unwrap_or_default().trim() {
        "multipart/form-data" => Ok(Json(target.write_parts(request).await?)),
        "application/octet-stream" => Ok(Json(vec![target.write_body(request.into_body()).await?])),
        other => Err(HttpError::bad_request(format!(
            "unsupported content type '{other}': multipart/form-data or application/octet-stream is expected"
        ))),
    }
}

impl Target {
    async fn write_body(&self, body: Body) -> Result<Written, HttpError> {
        let path = self.query.path.as_deref().ok_or_else(|| HttpError::bad_request("path is required"))?;
        let mut file = self.create(self.resolve(path)?);
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| HttpError::bad_request(format!("upload broke off: {error}")))?;
            if !file.write(piece).await {
                let rest = async { while pieces.next().await.is_some_and(|piece| piece.is_ok()) {} };
                // Whether or not all was read: the answer is the same.
                let _ = tokio::time::timeout(DRAIN, rest).await;
                break;
            }
        }
        file.finish().await
    }

    async fn write_parts(&self, request: Request) -> Result<Vec<Written>, HttpError> {
        let parts = Multipart::from_request(request, &()).await;
        let mut parts = parts.map_err(|error| HttpError::bad_request(error.body_text()))?;
        let (mut paths, mut written) = (BTreeSet::new(), Vec::new());
        while let Some(part) = parts.next_field().await.map_err(broken)? {
            if part.name() != Some("file") {
                continue;
            }
            let path = self.query.path.as_deref().or(part.file_name());
            let path = self.resolve(path.ok_or_else(|| HttpError::bad_request("a part has no file name"))?)?;
            if !paths.insert(path.clone()) {
                return Err(HttpError::bad_request(format!("path '{path}' is uploaded twice")));
            }
            match self.write_part(part, path).await {
                Ok(file) => written.push(file),
                Err(error) => {
                    let rest = async { while parts.next_field().await.is_ok_and(|part| part.is_some()) {} };
                    let _ = tokio::time::timeout(DRAIN, rest).await;
                    return Err(error);
                }
            }
        }
        if written.is_empty() {
            return Err(HttpError::bad_request("no part is named 'file'"));
        }
        Ok(written)
    }

    async fn write_part(&self, mut part: Field<'_>, path: String) -> Result<Written, HttpError> {
        let mut file = self.create(path);
        while let Some(piece) = part.chunk().await.map_err(broken)? {
            if !file.write(piece).await {
                break;
            }
        }
        file.finish().await
    }

    fn resolve(&self, path: &str) -> Result<String, HttpError> {
        let resolved = path::resolve(path, &self.user.home, self.settings.default_workdir.as_deref());
        Ok(resolved.map_err(FileError::from)?)
    }

    /// A file whose content is written by a thread that may block.
    fn create(&self, path: String) -> Sink {
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(QUEUE);
        let (user, metadata) = (self.user.clone(), self.metadata.clone());
        let written = Written {
            name: path::base_name(&path).to_owned(),
            r#type: "file",
            path: path.clone(),
            metadata: self.metadata.clone(),
        };
        let task = tokio::task::spawn_blocking(move || {
            let mut file = files::create(&user, &path, &metadata)?;
            while let Some(piece) = receiver.blocking_recv() {
                file.write_all(&piece).map_err(FileError::on("write", &path))?;
            }
            Ok(())
        });
        Sink { pieces, task, written }
    }
}

/// A file that is being written.
struct Sink {
    pieces: mpsc::Sender<Bytes>,
    task: JoinHandle<Result<(), FileError>>,
    written: Written,
}

impl Sink {
    /// False when no more is wanted; `finish` says why.
    async fn write(&mut self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    async fn finish(self) -> Result<Written, HttpError> {
        drop(self.pieces);
        self.task.await.map_err(|error| HttpError::internal(&error))??;
        Ok(self.written)
    }
}

fn broken(error: MultipartError) -> HttpError {
    HttpError::bad_request(format!("upload broke off: {}", error.body_text()))
}

fn text(headers: &HeaderMap, name: HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// What the headers `X-Metadata-…` attach to each file.
fn attached(headers: &HeaderMap) -> Result<Metadata, HttpError> {
    let named = headers.iter().filter_map(|(name, value)| Some((name.as_str().strip_prefix("x-metadata-")?, value)));
    let metadata = named
        .map(|(key, value)| Some((key.to_owned(), value.to_str().ok()?.to_owned())))
        .collect::<Option<Metadata>>()
        .ok_or_else(|| HttpError::bad_request("metadata: only printable ASCII is allowed"))?;
    metadata::check(&metadata)?;
    Ok(metadata)
}
