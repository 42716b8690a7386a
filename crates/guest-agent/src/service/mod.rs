//! The edge: one port that speaks HTTP and Connect. Turns requests into calls of the other modules and their errors
//! into the codes of the wire contract; decides which route asks for which proof. Does no work itself.

mod capture;
mod compose;
mod control;
mod cors;
pub mod direct;
mod download;
mod error;
mod file_query;
mod filesystem;
mod gate;
pub mod local;
mod metrics;
mod packing;
mod process;
mod process_input;
mod remainder;
mod restore;
mod run;
mod session;
mod upload;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use http::StatusCode;
use proto::filesystem::FilesystemExt;
use proto::process::ProcessExt;
use proto::session::SessionExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::Role;
use crate::init::persona::Assumed;
use crate::process::Processes;
use crate::settings;

/// The version of the wire contract that this agent speaks.
const CONTRACT_VERSION: &str = "0.6.13";

/// What all requests share.
#[derive(Debug)]
pub struct Agent {
    /// What the host has set.
    pub settings: settings::Shared,
    /// What clients have started.
    pub processes: Processes,
    /// The only address whose control requests are answered.
    pub control_peer: IpAddr,
    /// Whether this is PID 1, which may change the system.
    pub role: Role,
    /// Told when the host wants the system to stop.
    pub shutdown: Notify,
    /// Remembers the processors' times between two looks.
    pub cpu: metrics::Cpu,
    /// What clients watch and will ask about.
    pub watchers: watch::Watchers,
    /// Who the system was made into last.
    pub assumed: Assumed,
}

impl Agent {
    /// An agent that has been told nothing yet.
    pub fn new(processes: Processes, control_peer: IpAddr, role: Role) -> Self {
        let (settings, shutdown, cpu, watchers, assumed) = Default::default();
        Self { settings, processes, control_peer, role, shutdown, cpu, watchers, assumed }
    }
}

/// Serves for ever.
pub async fn serve(listener: TcpListener, agent: Arc<Agent>) -> std::io::Result<()> {
    // Answers are small and somebody waits for each.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router(agent).into_make_service_with_connect_info::<SocketAddr>()).await
}

fn router(agent: Arc<Agent>) -> Router {
    let open = Router::new()
        .route("/health", get(async || StatusCode::NO_CONTENT))
        // Checks token or signature itself.
        .route("/files", get(download::download).post(upload::upload))
        .layer(DefaultBodyLimit::disable());
    let control = Router::new()
        .route("/init", post(control::init))
        .route("/clock", post(control::set_clock))
        .route("/sync", post(control::sync))
        .route("/shutdown", post(control::shutdown))
        .route("/settle", post(capture::settle))
        .route("/freeze", post(capture::freeze))
        .route("/benchmark/spawn", get(control::benchmark_spawn))
        .layer(from_fn_with_state(agent.clone(), gate::only_the_host));
    let protected = Router::new()
        .route("/envs", get(envs))
        .route("/metrics", get(metrics::metrics))
        .route("/files/compose", post(compose::compose))
        .fallback_service(rpc(&agent).into_axum_service())
        .layer(from_fn_with_state(agent.clone(), gate::only_with_token))
        .layer(from_fn(remainder::throw_away));
    open.merge(control).merge(protected).layer(from_fn(cors::allow_everyone)).with_state(agent)
}

fn rpc(agent: &Arc<Agent>) -> connectrpc::Router {
    let router = SessionExt::register(Arc::new(session::Service(agent.clone())), connectrpc::Router::new());
    let router = ProcessExt::register(Arc::new(process::Service(agent.clone())), router);
    FilesystemExt::register(Arc::new(filesystem::Service(agent.clone())), router)
}

async fn envs(State(agent): State<Arc<Agent>>) -> Json<std::collections::BTreeMap<String, String>> {
    Json(agent.settings.current().envs.clone())
}
