//! A control plane on loopback, and a host agent that does nothing and says yes.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use control_plane::{Config, ControlPlane, HostAgentAddress, TokenKey};
use http::{Method, StatusCode, header};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// What its guests say.
type Listing = Arc<Mutex<Bytes>>;

/// A control plane with two sandboxes, of which the other one may come to its end.
pub struct Server {
    runtime: Runtime,
    client: reqwest::Client,
    address: SocketAddr,
    sandbox: String,
    other: String,
    says: Listing,
    _directory: tempfile::TempDir,
}

/// What a call came to.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body; what is no UTF-8 in it is replaced.
    pub text: String,
}

static SERVER: LazyLock<Server> = LazyLock::new(Server::start);

/// The one of this process.
pub fn server() -> &'static Server {
    &SERVER
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("there are threads");
        let directory = tempfile::tempdir().expect("there is room");
        let says = Listing::default();
        let address = runtime.block_on(serve(directory.path(), says.clone()));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client needs nothing");
        let (sandbox, other) = Default::default();
        let mut server = Self { runtime, client, address, sandbox, other, says, _directory: directory };
        (server.sandbox, server.other) = (server.create(), server.create());
        server
    }

    fn create(&self) -> String {
        let made = self.call("POST", "/v1/sandboxes", br#"{"timeout_sec":0}"#, b"");
        let made: serde_json::Value = serde_json::from_str(&made.text).expect("a sandbox is JSON");
        made["id"].as_str().expect("a host that says yes makes one").to_owned()
    }

    /// Asks for something, of a sandbox where the path has `{id}` or `{other}`, while guests say `says`.
    pub fn call(&self, method: &str, path: &str, body: &[u8], says: &[u8]) -> Answer {
        *self.says.lock().expect("nobody panics with it") = Bytes::copy_from_slice(says);
        let url = format!("http://{}{}", self.address, path.replace("{id}", &self.sandbox).replace("{other}", &self.other));
        let method = Method::from_bytes(method.as_bytes()).expect("routes have methods");
        let request = self.client.request(method, url).header(header::CONTENT_TYPE, "application/json");
        let request = request.body(body.to_vec());
        self.runtime.block_on(async {
            let answer = request.send().await.expect("a server answers");
            let status = answer.status().as_u16();
            let body = answer.bytes().await.expect("an answer has an end");
            Answer { status, text: String::from_utf8_lossy(&body).into_owned() }
        })
    }
}

async fn serve(directory: &std::path::Path, says: Listing) -> SocketAddr {
    let host = directory.join("host.sock");
    let socket = UnixListener::bind(&host).expect("the directory is new");
    tokio::spawn(async move { axum::serve(socket, Router::new().fallback(agree).with_state(says)).await });
    let database = format!("sqlite://{}", directory.join("records.db").display());
    let store = database.parse().expect("this is how a file is named");
    let plane = ControlPlane::open(Config::new(store, TokenKey::random(), HostAgentAddress::Unix(host))).await.expect("a file can be made");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(plane.run(listener, None, CancellationToken::new()));
    address
}

/// Answers every call with an empty message, and every guest's with what it is to say.
async fn agree(State(says): State<Listing>, request: Request) -> Response {
    let path = request.uri().path();
    let (status, body) = match path {
        // A host that cannot be described is compared with nothing: what it is said to have stays.
        _ if path.ends_with("/GetHost") => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
        _ if path.contains("/guest/") => (StatusCode::OK, says.lock().expect("nobody panics with it").clone()),
        _ => (StatusCode::OK, Bytes::new()),
    };
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/proto");
    answer.body(Body::from(body)).expect("these are headers")
}
