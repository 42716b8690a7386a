//! A host agent alone, driven by its RPCs, that can be ended and started again; and file systems for its data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use connectrpc::ConnectError;
use connectrpc::client::{ClientConfig, Http2Connection, SharedHttp2Connection};
use proto::hostagent::v1::{
    CreateSandboxRequest, CreateSnapshotRequest, DeleteSnapshotRequest, DestroySandboxRequest, ExecRequest,
    HostAgentServiceClient, HostServiceClient, ListSandboxesRequest, ListSnapshotsRequest, PauseSandboxRequest,
    ResumeSandboxRequest, SandboxInfo, SnapshotInfo,
};
use tempfile::TempDir;
use testkit::{Inventory, wait_for};

use super::binary;

/// A file system of its own over a directory, in a file, as long as this lives.
pub struct Disk {
    mounted: PathBuf,
    _image: tempfile::NamedTempFile,
}

impl Disk {
    /// Of a kind that `mkfs` knows, and so large.
    pub fn over(directory: &Path, mkfs: &[&str], megabytes: u64) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(megabytes << 20).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(image.path()).stdout(Stdio::null()).status();
        assert!(made.unwrap().success(), "{mkfs:?}");
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(directory).status();
        assert!(mounted.unwrap().success());
        Self { mounted: directory.to_owned(), _image: image }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what a test that failed has left may have files open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

/// What the host agent's data is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// That of the machine's temporary directory.
    Any,
    Ext4,
    /// With reflinks.
    Xfs,
}

/// Room for templates' images apart: they are shared from elsewhere.
const DISK_MB: u64 = 4096;

impl FileSystem {
    fn over(self, directory: &Path) -> Option<Disk> {
        match self {
            Self::Any => None,
            Self::Ext4 => Some(Disk::over(directory, &["mkfs.ext4", "-q", "-E", "lazy_itable_init=1"], DISK_MB)),
            Self::Xfs => Some(Disk::over(directory, &["mkfs.xfs", "-q", "-f", "-m", "reflink=1"], DISK_MB)),
        }
    }
}

/// A running host agent.
pub struct Host {
    child: Child,
    arguments: Vec<String>,
    sandboxes: HostAgentServiceClient<SharedHttp2Connection>,
    host: HostServiceClient<SharedHttp2Connection>,
    /// Before the directory that it is mounted on.
    _disk: Option<Disk>,
    data_dir: TempDir,
}

impl Host {
    pub async fn start(file_system: FileSystem, arguments: &[&str]) -> Self {
        let data_dir = tempfile::Builder::new().prefix("sandpiper-test-").tempdir().unwrap();
        let disk = file_system.over(data_dir.path());
        testkit::share_templates(data_dir.path(), false);
        let fixed = ["host-agent", "--listen", "127.0.0.1:0", "--disk-reserve-mb", "64", "--data-dir"];
        let mut all: Vec<String> = fixed.map(str::to_owned).to_vec();
        all.push(data_dir.path().to_str().unwrap().to_owned());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut child = spawn(&all, data_dir.path());
        let (sandboxes, host) = connect(&mut child, data_dir.path()).await;
        Self { child, arguments: all, sandboxes, host, _disk: disk, data_dir }
    }

    /// Again in the same data directory, after it ended.
    pub async fn start_again(&mut self) {
        self.child = spawn(&self.arguments, self.data_dir.path());
        (self.sandboxes, self.host) = connect(&mut self.child, self.data_dir.path()).await;
    }

    /// Ends it by a signal.
    pub async fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let child = &mut self.child;
        wait_for("the host agent to end", async || child.try_wait().unwrap()).await
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    pub fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.data_dir().join("sandboxes").join(id)
    }

    pub fn snapshot_dir(&self, id: &str) -> PathBuf {
        self.data_dir().join("snapshots").join(id)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(log_of(self.data_dir())).unwrap_or_default()
    }

    pub fn inventory(&self) -> Inventory {
        Inventory::take(self.data_dir())
    }

    pub async fn try_create(&self, request: CreateSandboxRequest) -> Result<String, ConnectError> {
        Ok(self.sandboxes.create_sandbox(request).await?.into_owned().sandbox_id)
    }

    pub async fn create(&self, template: &str) -> String {
        let request = CreateSandboxRequest { template: template.into(), ..Default::default() };
        self.try_create(request).await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    pub async fn try_create_from(&self, snapshot: &str) -> Result<String, ConnectError> {
        self.try_create(CreateSandboxRequest { snapshot_id: snapshot.into(), ..Default::default() }).await
    }

    pub async fn create_from(&self, snapshot: &str) -> String {
        self.try_create_from(snapshot).await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    pub async fn try_destroy(&self, id: &str) -> Result<(), ConnectError> {
        let request = DestroySandboxRequest { sandbox_id: id.into(), ..Default::default() };
        self.sandboxes.destroy_sandbox(request).await.map(drop)
    }

    pub async fn destroy(&self, id: &str) {
        self.try_destroy(id).await.unwrap();
    }

    pub async fn try_pause(&self, id: &str) -> Result<(), ConnectError> {
        let request = PauseSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        self.sandboxes.pause_sandbox(request).await.map(drop)
    }

    /// As a control plane asks that keeps records.
    pub async fn pause_of(&self, id: &str, generation: u64) -> Result<(), ConnectError> {
        let request = PauseSandboxRequest { sandbox_id: id.into(), generation, ..Default::default() };
        self.sandboxes.pause_sandbox(request).await.map(drop)
    }

    /// As a control plane asks that keeps records.
    pub async fn resume_of(&self, id: &str, generation: u64) -> Result<(), ConnectError> {
        let request = ResumeSandboxRequest { sandbox_id: id.into(), generation, ..Default::default() };
        self.sandboxes.resume_sandbox(request).await.map(drop)
    }

    pub async fn pause(&self, id: &str) {
        self.try_pause(id).await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
    }

    pub async fn try_resume(&self, id: &str) -> Result<(), ConnectError> {
        let request = ResumeSandboxRequest { sandbox_id: id.into(), ..Default::default() };
        self.sandboxes.resume_sandbox(request).await.map(drop)
    }

    pub async fn resume(&self, id: &str) {
        self.try_resume(id).await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
    }

    pub async fn try_snapshot(&self, sandbox: &str, snapshot: &str) -> Result<SnapshotInfo, ConnectError> {
        let (sandbox_id, snapshot_id) = (sandbox.into(), snapshot.into());
        let request = CreateSnapshotRequest { sandbox_id, snapshot_id, ..Default::default() };
        let answer = self.host.create_snapshot(request).await?.into_owned();
        Ok(answer.snapshot.into_option().expect("an answer has a snapshot"))
    }

    pub async fn snapshot(&self, sandbox: &str, snapshot: &str) -> SnapshotInfo {
        let made = self.try_snapshot(sandbox, snapshot).await;
        made.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    pub async fn delete_snapshot(&self, id: &str) -> Result<(), ConnectError> {
        let request = DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        self.host.delete_snapshot(request).await.map(drop)
    }

    pub async fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.host.list_snapshots(ListSnapshotsRequest::default()).await.unwrap().into_owned().snapshots
    }

    pub async fn list(&self) -> Vec<SandboxInfo> {
        self.sandboxes.list_sandboxes(ListSandboxesRequest::default()).await.unwrap().into_owned().sandboxes
    }

    /// What a sandbox is in; none where it is not there.
    pub async fn status(&self, id: &str) -> Option<String> {
        self.list().await.into_iter().find(|info| info.sandbox_id == id).map(|info| info.status)
    }

    pub async fn try_shell(&self, id: &str, script: &str) -> Result<(i32, String), ConnectError> {
        let request = ExecRequest {
            sandbox_id: id.into(),
            cmd: "bash".into(),
            args: vec!["-c".into(), script.into()],
            timeout_sec: 60,
            ..Default::default()
        };
        let output = self.sandboxes.exec(request).await?.into_owned();
        Ok((output.exit_code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Runs a script that must succeed, and returns what it printed.
    pub async fn shell(&self, id: &str, script: &str) -> String {
        let ran = self.try_shell(id, script).await;
        let (code, output) = ran.unwrap_or_else(|error| panic!("{script}: {error:?}\n{}", self.log()));
        assert_eq!(code, 0, "{script}: {output}");
        output
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal("TERM");
            let _ = self.child.wait();
        }
        testkit::end_monitors(self.data_dir());
        if std::thread::panicking() {
            eprintln!("the host agent said:\n{}", self.log());
        }
    }
}

fn log_of(data_dir: &Path) -> PathBuf {
    data_dir.join("server.log")
}

fn spawn(arguments: &[String], data_dir: &Path) -> Child {
    let log = fs::File::create(log_of(data_dir)).unwrap();
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("SANDPIPER_LOG", "info,host_agent=debug")
        .env("SANDPIPER_POOL", "off")
        .env("SANDPIPER_ON_EXIT", "destroy")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(log).spawn().unwrap()
}

async fn connect(
    child: &mut Child,
    data_dir: &Path,
) -> (HostAgentServiceClient<SharedHttp2Connection>, HostServiceClient<SharedHttp2Connection>) {
    let log = log_of(data_dir);
    let url = wait_for("the host agent to be ready", async || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        assert!(child.try_wait().unwrap().is_none(), "the host agent ended:\n{text}");
        text.lines().find_map(|line| line.split_once("ready at ")?.1.split_whitespace().next().map(str::to_owned))
    })
    .await;
    let uri: http::Uri = url.parse().unwrap();
    let connection = Http2Connection::connect_plaintext(uri.clone()).await.unwrap().shared(64);
    let config = ClientConfig::new(uri);
    (HostAgentServiceClient::new(connection.clone(), config.clone()), HostServiceClient::new(connection, config))
}
