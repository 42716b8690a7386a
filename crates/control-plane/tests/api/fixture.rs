//! A control plane on a free port, its database in a directory of its own, and the fake host that it calls.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::{Config, ControlPlane, HostAgentAddress, StoreUrl, TokenKey};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::fake_host::FakeHost;
use crate::https::Secure;

pub struct Fixture {
    pub host: Arc<FakeHost>,
    pub address: SocketAddr,
    pub http: reqwest::Client,
    pub config: Config,
    /// Where its domain is served, if it has one.
    pub secure: Option<Secure>,
    server: JoinHandle<()>,
    shutdown: DropGuard,
    host_port: Option<AbortOnDropHandle<()>>,
    directory: tempfile::TempDir,
}

impl Fixture {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With a configuration that the test changes.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Arc::new(FakeHost::default());
        let socket = directory.path().join("host.sock");
        let store = StoreUrl::Sqlite(directory.path().join("store.db"));
        let mut config = Config::new(store, TokenKey::random(), HostAgentAddress::Unix(socket.clone()));
        config.drain = Duration::from_secs(5);
        change(&mut config);
        let host_port = Some(host.serve(&socket));
        let (address, secure, server, shutdown) = serve(&config).await;
        let http = reqwest::Client::new();
        Self { host, address, http, config, secure, server, shutdown, host_port, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("host.sock")
    }

    /// Ends the control plane as SIGTERM would, and waits until it has ended.
    pub async fn stop(&mut self) {
        self.begin_stop();
        self.ended().await;
    }

    /// Tells the control plane to end.
    pub fn begin_stop(&mut self) {
        drop(std::mem::replace(&mut self.shutdown, CancellationToken::new().drop_guard()));
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        tokio::time::timeout(Duration::from_secs(20), &mut self.server).await.expect("it ends in time").unwrap();
    }

    /// Ends the control plane and starts another on the same database.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub async fn start_again(&mut self) {
        (self.address, self.secure, self.server, self.shutdown) = serve(&self.config).await;
    }

    /// Nobody answers at the host agent's address any more.
    pub fn stop_host(&mut self) {
        self.host_port = None;
        let _ = std::fs::remove_file(self.socket());
    }

    pub fn start_host(&mut self) {
        self.host_port = Some(self.host.serve(&self.socket()));
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, self.url(path));
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        answer(request.send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.send(Method::GET, path, None).await
    }

    pub async fn delete(&self, id: &str) -> (StatusCode, Value) {
        self.send(Method::DELETE, &format!("/v1/sandboxes/{id}"), None).await
    }

    /// A running sandbox's id.
    pub async fn create(&self) -> String {
        let (status, sandbox) = self.post("/v1/sandboxes", json!({})).await;
        assert_eq!(status, 201, "{sandbox}");
        sandbox["id"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, id: &str) -> String {
        let (_, sandbox) = self.get(&format!("/v1/sandboxes/{id}")).await;
        sandbox["status"].as_str().unwrap().to_owned()
    }

    /// Waits until a sandbox has a status.
    pub async fn until_status(&self, id: &str, wanted: &str) {
        let wait = async {
            while self.status(id).await != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the status is reached in time");
    }

    /// Waits until what is answered at a path is what the test waits for.
    pub async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) {
        let wait = async {
            while !is_so(&self.get(path).await.1) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the answer comes in time");
    }

    /// The id of the only sandbox there is, once there is one.
    pub async fn until_listed(&self) -> String {
        let wait = async {
            loop {
                let (_, list) = self.get("/v1/sandboxes").await;
                if let Some(id) = list[0]["id"].as_str() {
                    return id.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("a sandbox appears in time")
    }
}

async fn serve(config: &Config) -> (SocketAddr, Option<Secure>, JoinHandle<()>, DropGuard) {
    let control_plane = ControlPlane::open(config.clone()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (secure, https) = match &config.domain {
        Some(domain) => Some(Secure::open(domain).await).unzip(),
        None => (None, None),
    };
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let server = tokio::spawn(async move { control_plane.run(listener, https, token).await.unwrap() });
    (address, secure, server, shutdown.drop_guard())
}

pub async fn answer(response: reqwest::Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The error's code in an answer.
pub fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {body}"))
}
