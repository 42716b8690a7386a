//! The host agent's own port: the seed's eight RPCs, over Connect and over gRPC.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use connectrpc::client::{ClientConfig, Http2Connection, HttpClient};
use connectrpc::{ErrorCode, Protocol};
use proto::hostagent::v1::{
    CreateSandboxRequest, DestroySandboxRequest, ExecRequest, HostAgentServiceClient, HostServiceClient,
    ListSandboxesRequest, OnExpiry, PauseSandboxRequest, ReadFileRequest, ResumeSandboxRequest, WatchSandboxesRequest,
    WriteFileRequest,
};

use testkit::Inventory;

use super::binary;

/// One role in a process of its own.
pub struct Role {
    child: Child,
    /// Where it says that it is ready.
    pub url: String,
    pub data_dir: tempfile::TempDir,
}

impl Role {
    /// A host agent alone.
    pub fn host_agent(arguments: &[&str]) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        testkit::share_templates(data_dir.path(), false);
        Self::start("host-agent", arguments, data_dir)
    }

    /// A control plane alone.
    pub fn control_plane(arguments: &[&str]) -> Self {
        Self::start("control-plane", arguments, tempfile::tempdir().unwrap())
    }

    fn start(role: &str, arguments: &[&str], data_dir: tempfile::TempDir) -> Self {
        let mut child = Command::new(binary())
            .arg(role)
            .args(arguments)
            .arg("--data-dir")
            .arg(data_dir.path())
            .env_remove("DATABASE_URL")
            .env("SANDPIPER_POOL", "off")
            .env("SANDPIPER_ON_EXIT", "destroy")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| Some(line.unwrap().split_once("ready at ")?.1.trim().to_owned())).unwrap();
        // Goes on reading, so that the process can go on writing.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url, data_dir }
    }

    /// Tells it to end.
    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        testkit::wait_for("the role to end", async || child.try_wait().unwrap()).await
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
        testkit::end_monitors(self.data_dir.path());
    }
}

#[tokio::test]
async fn a_sandbox_that_is_to_be_paused_is_paused_when_it_expires_and_can_be_used_after_a_resume() {
    let agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    let uri: http::Uri = agent.url.parse().unwrap();
    let connection = Http2Connection::connect_plaintext(uri.clone()).await.unwrap().shared(16);
    let client = HostAgentServiceClient::new(connection, ClientConfig::new(uri));
    let request =
        CreateSandboxRequest { timeout_sec: 2, on_expiry: OnExpiry::ON_EXPIRY_PAUSE.into(), ..Default::default() };
    let sandbox_id = client.create_sandbox(request).await.unwrap().into_owned().sandbox_id;
    testkit::wait_for("the sandbox to be paused", async || {
        let list = client.list_sandboxes(ListSandboxesRequest::default()).await.unwrap().into_owned().sandboxes;
        (list[0].status == "paused").then_some(())
    })
    .await;
    let exec = ExecRequest { sandbox_id: sandbox_id.clone(), cmd: "true".into(), ..Default::default() };
    let refused = client.exec(exec.clone()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition);
    client.resume_sandbox(ResumeSandboxRequest { sandbox_id, ..Default::default() }).await.unwrap();
    assert_eq!(client.exec(exec).await.unwrap().into_owned().exit_code, 0);
}

#[tokio::test]
async fn a_host_agent_that_ends_finishes_what_has_begun_and_refuses_the_rest() {
    let mut agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    let uri: http::Uri = agent.url.parse().unwrap();
    let client = HostAgentServiceClient::new(HttpClient::plaintext(), ClientConfig::new(uri.clone()));
    let sandbox_id = client.create_sandbox(CreateSandboxRequest::default()).await.unwrap().into_owned().sandbox_id;
    let host = HostServiceClient::new(HttpClient::plaintext(), ClientConfig::new(uri));
    let mut changes = host.watch_sandboxes(WatchSandboxesRequest::default()).await.unwrap();
    assert!(changes.message().await.unwrap().is_some(), "at once");

    let read = ReadFileRequest { sandbox_id: sandbox_id.clone(), path: "/tmp/begun".into(), ..Default::default() };
    let script = "touch /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo done";
    let exec = ExecRequest {
        sandbox_id: sandbox_id.clone(),
        cmd: "sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Default::default()
    };
    // What has begun also has the file that ends it: nothing else is let in any more.
    let (chunks, go) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
    let upload = reqwest::Client::new()
        .post(format!("{}/sandboxes/{sandbox_id}/guest/files?path=/tmp/go", agent.url))
        .header("content-type", "application/octet-stream")
        .body(reqwest::Body::wrap_stream(go));
    let upload = tokio::spawn(upload.send());
    let exec = tokio::spawn({
        let client = client.clone();
        async move { client.exec(exec).await }
    });
    testkit::wait_for("the command to begin", async || client.read_file(read.clone()).await.ok()).await;
    chunks.unbounded_send(Ok(b"go".to_vec())).unwrap();
    agent.terminate();
    testkit::wait_for("new requests to be refused", async || {
        let refused = client.list_sandboxes(ListSandboxesRequest::default()).await.err()?;
        (refused.code == ErrorCode::Unavailable).then_some(())
    })
    .await;
    while changes.message().await.unwrap().is_some() {}
    drop(chunks);
    assert_eq!(upload.await.unwrap().unwrap().status().as_u16(), 200);
    assert_eq!(exec.await.unwrap().unwrap().into_owned().stdout, b"done\n");
    assert!(agent.ended().await.success());
    assert_eq!(Inventory::take(agent.data_dir.path()).beyond(&Inventory::default()), Vec::<String>::new());
}

async fn all_eight(url: &str, protocol: Protocol) {
    let uri: http::Uri = url.parse().unwrap();
    let connection = Http2Connection::connect_plaintext(uri.clone()).await.unwrap().shared(16);
    let config = ClientConfig::new(uri).with_protocol(protocol).with_default_max_message_size(64 << 20);
    let client = HostAgentServiceClient::new(connection, config);
    let list = async || client.list_sandboxes(ListSandboxesRequest::default()).await.unwrap().into_owned().sandboxes;
    assert!(list().await.is_empty());

    let request = CreateSandboxRequest {
        template: "minimal".into(),
        vcpus: 1,
        memory_mb: 256,
        timeout_sec: 300,
        ..Default::default()
    };
    let created = client.create_sandbox(request.clone()).await.unwrap().into_owned();
    let sandbox_id = created.sandbox_id.clone();
    assert_eq!(created.status, "running");
    let again = CreateSandboxRequest { sandbox_id: sandbox_id.clone(), ..request };
    assert_eq!(client.create_sandbox(again).await.unwrap().into_owned(), created, "the same id is the same sandbox");
    let info = list().await.remove(0);
    assert_eq!((info.sandbox_id.as_str(), info.memory_mb, info.timeout_sec), (sandbox_id.as_str(), 256, 300));
    assert_eq!(info.host_ip, created.host_ip);

    let script = "echo hello world; echo oops >&2; exit 3";
    let exec = ExecRequest {
        sandbox_id: sandbox_id.clone(),
        cmd: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        ..Default::default()
    };
    let output = client.exec(exec.clone()).await.unwrap().into_owned();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"hello world\n"[..], &b"oops\n"[..]));
    assert_eq!(output.exit_code, 3);
    let slow = ExecRequest { cmd: "sleep".into(), args: vec!["60".into()], timeout_sec: 1, ..exec.clone() };
    assert_eq!(client.exec(slow.clone()).await.unwrap_err().code, ErrorCode::DeadlineExceeded);
    let slow = ExecRequest { partial_on_timeout: true, ..slow };
    assert!(client.exec(slow).await.unwrap().into_owned().timed_out);

    let content = vec![7_u8; 5 << 20];
    let write = WriteFileRequest {
        sandbox_id: sandbox_id.clone(),
        path: "/srv/big".into(),
        content: content.clone(),
        ..Default::default()
    };
    client.write_file(write).await.unwrap();
    let read = |path: &str| ReadFileRequest { sandbox_id: sandbox_id.clone(), path: path.into(), ..Default::default() };
    assert!(client.read_file(read("/srv/big")).await.unwrap().into_owned().content == content);
    assert_eq!(client.read_file(read("/none")).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(client.read_file(read("/etc")).await.unwrap_err().code, ErrorCode::InvalidArgument);

    let pause = PauseSandboxRequest { sandbox_id: sandbox_id.clone(), ..Default::default() };
    client.pause_sandbox(pause.clone()).await.unwrap();
    assert_eq!(list().await[0].status, "paused");
    assert_eq!(client.exec(exec.clone()).await.unwrap_err().code, ErrorCode::FailedPrecondition);
    assert_eq!(client.pause_sandbox(pause).await.unwrap_err().code, ErrorCode::FailedPrecondition);
    let resume = ResumeSandboxRequest { sandbox_id: sandbox_id.clone(), ..Default::default() };
    client.resume_sandbox(resume).await.unwrap();
    assert_eq!(client.exec(exec).await.unwrap().into_owned().exit_code, 3);

    let again = CreateSandboxRequest { sandbox_id: sandbox_id.clone(), memory_mb: 512, ..Default::default() };
    assert_eq!(client.create_sandbox(again).await.unwrap_err().code, ErrorCode::AlreadyExists);
    let destroy = DestroySandboxRequest { sandbox_id, ..Default::default() };
    client.destroy_sandbox(destroy.clone()).await.unwrap();
    assert!(list().await.is_empty());
    assert_eq!(client.destroy_sandbox(destroy).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn the_eight_rpcs_of_the_seed_over_connect_and_grpc_on_one_port() {
    let agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    all_eight(&agent.url, Protocol::Connect).await;
    all_eight(&agent.url, Protocol::Grpc).await;
    // And as a person would, with JSON.
    let url = format!("{}/hostagent.v1.HostAgentService/CreateSandbox", agent.url);
    let answer =
        reqwest::Client::new().post(url).json(&serde_json::json!({ "template": "nosuch" })).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 404);
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["code"], "not_found");
}

#[tokio::test]
async fn guest_streams_do_not_reach_control_routes() {
    let agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    let http = reqwest::Client::new();
    for path in ["init", "%69nit", "clock", "shutdown", "benchmark/spawn", "files/%2e%2e/init"] {
        let answer = http.post(format!("{}/sandboxes/sbx/guest/{path}", agent.url)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 404, "{path}");
        let body: serde_json::Value = answer.json().await.unwrap();
        assert!(body["message"].as_str().unwrap().contains("no such route"), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_web_page_does_not_reach_the_port() {
    let agent = Role::host_agent(&["--listen", "127.0.0.1:0"]);
    let list = format!("{}/hostagent.v1.HostAgentService/ListSandboxes", agent.url);
    let http = reqwest::Client::new();
    for (name, value, expected) in [
        ("x-nothing", "special", 200),
        ("host", "rebound.example", 421),
        ("origin", "https://page.example", 403),
        ("origin", agent.url.as_str(), 403),
        ("sec-fetch-site", "cross-site", 403),
    ] {
        let request = http.post(&list).header(name, value).json(&serde_json::json!({}));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{name}: {value}");
        let stream = format!("{}/sandboxes/sbx/guest/files?path=/etc/passwd", agent.url);
        let answer = http.get(stream).header(name, value).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), if expected == 200 { 404 } else { expected }, "{name}: {value}");
    }
}
