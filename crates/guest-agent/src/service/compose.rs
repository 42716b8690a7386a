//! `POST /files/compose`: one file out of several, which are gone afterwards.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Agent;
use super::error::HttpError;
use crate::files::{self, FileError, Metadata, path};
use crate::settings::Settings;
use crate::users::{self, User};

/// Pieces of one file.
const MOST: usize = 10_000;

/// What a client asks for.
#[derive(Debug, Deserialize)]
pub struct ComposeRequest {
    source_paths: Vec<String>,
    destination: String,
    #[serde(default)]
    username: String,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Composed {
    name: String,
    r#type: &'static str,
    path: String,
}

/// Puts files one after another into another one, as a user, and removes them. Where that fails they all stay.
pub async fn compose(State(agent): State<Arc<Agent>>, body: Bytes) -> Result<Json<Composed>, HttpError> {
    let request: ComposeRequest =
        serde_json::from_slice(&body).map_err(|error| HttpError::bad_request(format!("body: {error}")))?;
    let settings = agent.settings.current();
    let composed = tokio::task::spawn_blocking(move || compose_now(&request, &settings)).await;
    composed.map_err(|error| HttpError::internal(&error))?.map(Json)
}

fn compose_now(request: &ComposeRequest, settings: &Settings) -> Result<Composed, HttpError> {
    if !(1..=MOST).contains(&request.source_paths.len()) {
        return Err(HttpError::bad_request(format!("source_paths must have 1 to {MOST} paths")));
    }
    let name = Some(request.username.as_str()).filter(|name| !name.is_empty());
    let user = users::lookup(name.unwrap_or(&settings.default_user))?;
    let resolve = |text: &str| {
        let resolved = path::resolve(text, &user.home, settings.default_workdir.as_deref());
        resolved.map_err(|error| HttpError::from(FileError::from(error)))
    };
    let destination = resolve(&request.destination)?;
    let sources = request.source_paths.iter().map(|text| resolve(text)).collect::<Result<Vec<_>, _>>()?;
    join(&user, &sources, &destination)?;
    for source in &sources {
        files::remove(&user, source)?;
    }
    Ok(Composed { name: path::base_name(&destination).to_owned(), r#type: "file", path: destination })
}

/// Every source is looked at before the destination is touched, which may be none of them.
fn join(user: &User, sources: &[String], destination: &str) -> Result<(), HttpError> {
    let same = files::open(user, destination).ok().map(|there| identity(&there.file)).transpose();
    let same = same.map_err(FileError::on("stat", destination))?;
    for source in sources {
        let file = files::open(user, source)?.file;
        if Some(identity(&file).map_err(FileError::on("stat", source))?) == same {
            return Err(HttpError::bad_request(format!("destination '{destination}' is one of the sources")));
        }
    }
    let mut whole = files::create(user, destination, &Metadata::default())?;
    for source in sources {
        let mut file = files::open(user, source)?.file;
        io::copy(&mut file, &mut whole).map_err(FileError::on("write", destination))?;
    }
    Ok(())
}

/// Which file it is, whatever it is called.
fn identity(file: &std::fs::File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}
