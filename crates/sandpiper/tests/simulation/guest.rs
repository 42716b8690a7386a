//! The agent inside a simulated guest, as far as a sandbox's life needs it: it speaks what a real one does to the host
//! agent's own client.

use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use buffa::Message;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, End, Word};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::monitor::{Guest, Mode};
use crate::world::World;

/// Where the guest agent speaks HTTP.
const HTTP: u16 = 49983;

/// One guest.
#[derive(Clone)]
struct Agent {
    world: World,
    number: u64,
}

#[derive(Deserialize)]
struct Named {
    path: String,
}

impl Agent {
    /// Waits until the vCPUs run, and does something with the guest. None where it is gone.
    async fn with<T>(&self, what: impl FnOnce(&mut Guest) -> T) -> Option<T> {
        let mode = self.world.state().guests.get(&self.number).map(|guest| guest.mode.subscribe());
        let mode = *mode?.wait_for(|mode| *mode != Mode::Stopped).await.ok()?;
        if mode == Mode::Gone {
            return None;
        }
        self.world.state().guests.get_mut(&self.number).map(what)
    }

    async fn answer(&self, what: impl FnOnce(&mut Guest) -> StatusCode) -> StatusCode {
        let moment = Duration::from_micros(self.world.below(2000));
        tokio::time::sleep(moment).await;
        self.with(what).await.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// Answers on one connection until it is closed, or the guest is gone.
pub async fn serve(world: World, number: u64, port: u16, stream: DuplexStream) {
    let agent = Agent { world, number };
    if port == HTTP { serve_http(agent, stream).await } else { converse(agent, stream).await }
}

async fn serve_http(agent: Agent, stream: DuplexStream) {
    let router = Router::new()
        .route("/health", get(async |State(agent): State<Agent>| agent.answer(|_| StatusCode::OK).await))
        .route("/init", post(init))
        .route("/clock", post(async |State(agent): State<Agent>| agent.answer(|_| StatusCode::OK).await))
        .route("/settle", post(async |State(agent): State<Agent>| agent.answer(|_| StatusCode::OK).await))
        .route("/freeze", post(freeze))
        .route("/files", post(write).get(read))
        .with_state(agent);
    let service = TowerToHyperService::new(router);
    // A connection that breaks is the host's to notice.
    let _ = Builder::new(TokioExecutor::new()).http1_only().serve_connection(TokioIo::new(stream), service).await;
}

async fn init(State(agent): State<Agent>, body: String) -> StatusCode {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Introduction {
        access_token: String,
    }
    let Ok(Introduction { access_token }) = serde_json::from_str(&body) else { return StatusCode::BAD_REQUEST };
    let introduce = |guest: &mut Guest| {
        guest.token = access_token;
        StatusCode::OK
    };
    agent.answer(introduce).await
}

async fn freeze(State(agent): State<Agent>) -> StatusCode {
    let freeze = |guest: &mut Guest| {
        guest.is_frozen = true;
        StatusCode::OK
    };
    agent.answer(freeze).await
}

/// Whether a caller may talk to what user code talks to.
fn admit(guest: &Guest, headers: &HeaderMap) -> Result<(), StatusCode> {
    let token = headers.get("x-access-token").and_then(|token| token.to_str().ok());
    if token != Some(&guest.token) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    if guest.is_frozen { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(()) }
}

async fn write(
    State(agent): State<Agent>,
    Query(Named { path }): Query<Named>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    let write = |guest: &mut Guest| match admit(guest, &headers) {
        Ok(()) => guest.write(&path, &body).map_or(StatusCode::INSUFFICIENT_STORAGE, |()| StatusCode::OK),
        Err(refused) => refused,
    };
    agent.answer(write).await
}

async fn read(
    State(agent): State<Agent>,
    Query(Named { path }): Query<Named>,
    headers: HeaderMap,
) -> Result<String, StatusCode> {
    let read = |guest: &mut Guest| {
        admit(guest, &headers)?;
        Ok(guest.content.files.get(&path).cloned().unwrap_or_default())
    };
    agent.with(read).await.unwrap_or(Err(StatusCode::SERVICE_UNAVAILABLE))
}

/// The host's own conversation. Ends with the connection.
async fn converse(agent: Agent, mut stream: DuplexStream) {
    while let Ok(length) = stream.read_u32().await {
        let mut message = vec![0; length as usize];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        let Ok(word) = Word::decode_from_slice(&message) else { return };
        let Some(answer) = agent.with(|guest| hear(guest, word)).await else { return };
        let answer = answer.encode_to_vec();
        let length = u32::try_from(answer.len()).unwrap_or_default();
        if stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await.is_err() {
            return;
        }
    }
}

fn hear(guest: &mut Guest, word: Word) -> Answer {
    match word.word {
        Some(Said::Restoration(restoration)) => {
            guest.token = restoration.access_token;
            guest.is_frozen = false;
            Answer::default()
        }
        Some(Said::Run(_)) => {
            let end = End { end: Some(proto::direct::end::End::ExitCode(0)), ..Default::default() };
            Answer { news: Some(proto::direct::answer::News::End(Box::new(end))), ..Default::default() }
        }
        _ => Answer::default(),
    }
}
