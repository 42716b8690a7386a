//! One running QEMU.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::command::STATE_SET;
use super::merge::merge_layers;
use super::qmp::Qmp;
use crate::{BootError, BoundedLog, Launched, Vm, VmError, VmmProcess};

/// How long QEMU may take from its first instruction to its first answer. It takes 18 to 40 ms on an idle machine.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// What an answer takes of a QEMU that is ready.
const AT_ONCE: Duration = Duration::from_millis(3);

/// How long loading a state may take. It takes 2 to 10 ms on an idle machine.
const LOAD: Duration = Duration::from_secs(30);

/// Between two looks at a load.
const LOAD_INTERVAL: Duration = Duration::from_millis(1);

/// What QEMU writes to its standard error, and the task that reads it.
pub(super) struct Stderr {
    pub log: BoundedLog,
    pub following: JoinHandle<()>,
}

/// A virtual machine run by QEMU.
#[derive(Debug)]
pub(super) struct QemuVm {
    pub(super) process: VmmProcess,
    pub(super) qmp: Qmp,
    pub(super) console: BoundedLog,
    pub(super) stderr: BoundedLog,
    /// Frozen overlays that it was started with.
    pub(super) layer_count: usize,
    /// From its start.
    pub(super) first_answer: Duration,
    /// How much later that came because of the launcher.
    pub(super) launch_delay: Duration,
    /// Until it is in use.
    pub(super) guard: Option<KillUnlessDone>,
}

impl QemuVm {
    /// Takes over a QEMU that was just started with its vCPUs stopped. Kills it when that fails, and when what is
    /// returned is dropped before it was taken into use.
    pub async fn connect(
        started: Instant,
        launched: Launched,
        qmp_socket: &Path,
        console_socket: &Path,
        stderr: Stderr,
        layer_count: usize,
    ) -> Result<Self, BootError> {
        let Launched { process, before, after } = launched;
        let asked = Instant::now();
        let guard = KillUnlessDone(Some(process.clone()));
        let console = BoundedLog::default();
        let connected = tokio::select! {
            connected = tokio::time::timeout(FIRST_ANSWER, Qmp::connect(qmp_socket)) => connected,
            () = process.ended() => Ok(Err(VmError::Gone { command: "start" })),
        };
        let qmp = match connected.unwrap_or(Err(VmError::Silent { command: "start" })) {
            Ok(qmp) => qmp,
            Err(VmError::Gone { .. }) => {
                return Err(BootError::Ended { last_words: last_words(&process, stderr).await });
            }
            Err(source) => return Err(BootError::Refused { last_words: last_words(&process, stderr).await, source }),
        };
        let first_answer = started.elapsed();
        // One that has to be waited for was not ready before either.
        let waited = if asked.elapsed() < AT_ONCE { after } else { Duration::ZERO };
        let (stderr, launch_delay, guard) = (stderr.log, before + waited, Some(guard));
        let vm = Self { process, qmp, console, stderr, layer_count, first_answer, launch_delay, guard };
        if let Ok(stream) = connect(console_socket).await {
            vm.console.follow(stream);
        }
        Ok(vm)
    }

    /// Lets the vCPUs run.
    pub async fn let_go(self) -> Result<Arc<dyn Vm>, BootError> {
        let went = self.qmp.execute("cont", json!({})).await.map(drop);
        self.into_use(went).await
    }

    /// Loads the state that it was started with; the vCPUs stay stopped.
    pub async fn load(self) -> Result<Arc<dyn Vm>, BootError> {
        let loaded = tokio::time::timeout(LOAD, self.load_state()).await;
        let loaded = loaded.unwrap_or(Err(VmError::Silent { command: "migrate-incoming" }));
        self.into_use(loaded).await
    }

    async fn load_state(&self) -> Result<(), VmError> {
        let command = "migrate-incoming";
        self.qmp.execute(command, json!({ "uri": format!("file:/dev/fdset/{STATE_SET}") })).await?;
        loop {
            let progress = self.qmp.execute("query-migrate", json!({})).await?;
            match progress["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let reason = progress["error-desc"].as_str().unwrap_or("the state cannot be loaded");
                    return Err(VmError::Refused { command, reason: reason.chars().take(400).collect() });
                }
                _ => tokio::time::sleep(LOAD_INTERVAL).await,
            }
        }
    }

    async fn into_use(mut self, result: Result<(), VmError>) -> Result<Arc<dyn Vm>, BootError> {
        if let Err(source) = result {
            self.process.kill().await;
            return Err(BootError::Refused { last_words: self.last_words(), source });
        }
        if let Some(guard) = self.guard.take() {
            guard.done();
        }
        Ok(Arc::new(self))
    }
}

/// Ends a process when the future that holds it is dropped before it was told that all is well. Where that future comes
/// to its end itself it must await the end of the process, so that an error means that nothing is left.
#[derive(Debug)]
pub(super) struct KillUnlessDone(Option<VmmProcess>);

impl KillUnlessDone {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for KillUnlessDone {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            tokio::spawn(async move { process.kill().await });
        }
    }
}

pub(super) async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let (_directory, short) = super::short_socket_path(socket)?;
    UnixStream::connect(short).await
}

/// All that a process had to say: complete only once it is gone and its log was read to the end.
async fn last_words(process: &VmmProcess, stderr: Stderr) -> String {
    process.kill().await;
    // Ends with the process, unless something else holds the pipe open.
    let _ = tokio::time::timeout(Duration::from_secs(1), stderr.following).await;
    stderr.log.tail(20)
}

impl Vm for QemuVm {
    fn process(&self) -> &VmmProcess {
        &self.process
    }

    fn first_answer(&self) -> Duration {
        self.first_answer
    }

    fn launch_delay(&self) -> Duration {
        self.launch_delay
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async { self.qmp.execute("stop", json!({})).await.map(drop) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async { self.qmp.execute("cont", json!({})).await.map(drop) })
    }

    fn save_state(&self, to: OwnedFd) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async move {
            let set = self.qmp.lend(&to).await?;
            let name = format!("/dev/fdset/{set}");
            // `live` would be for a virtual machine that is never to run here again.
            let command = "xen-save-devices-state";
            let saved = self.qmp.execute(command, json!({ "filename": name, "live": false })).await;
            // A set that cannot be given back costs a descriptor of a process that ends soon.
            let _ = self.qmp.execute("remove-fd", json!({ "fdset-id": set })).await;
            saved?;
            let unsafe_still = |source: std::io::Error| VmError::Refused { command, reason: source.to_string() };
            let sync = tokio::task::spawn_blocking(move || std::fs::File::from(to).sync_all()).await;
            sync.map_err(|error| unsafe_still(error.into()))?.map_err(unsafe_still)
        })
    }

    fn merge_layers(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(merge_layers(&self.qmp, self.layer_count))
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.process.kill())
    }

    fn last_words(&self) -> String {
        let console = self.console.tail(30);
        let stderr = self.stderr.tail(10);
        match (console.is_empty(), stderr.is_empty()) {
            (false, false) => format!("{console}\n{stderr}"),
            (false, true) => console,
            (true, false) => stderr,
            (true, true) => "(the guest and its monitor said nothing)".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;
    use crate::ProcessIdentity;

    /// Answers every command of one client, `cont` with a refusal.
    async fn refuse_to_continue(listener: UnixListener) {
        listener.set_nonblocking(true).unwrap();
        let (stream, _) = tokio::net::UnixListener::from_std(listener).unwrap().accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        writer.write_all(b"{\"QMP\":{}}\n").await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let command: serde_json::Value = serde_json::from_str(&line).unwrap();
            let answer = if command["execute"] == "cont" {
                json!({"id": command["id"], "error": {"class": "GenericError", "desc": "the disk is gone"}})
            } else {
                json!({"id": command["id"], "return": {}})
            };
            writer.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_monitor_that_will_not_run_its_guest_is_gone_when_the_error_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp.sock");
        tokio::spawn(refuse_to_continue(UnixListener::bind(&socket).unwrap()));
        #[allow(clippy::zombie_processes, reason = "VmmProcess reaps it")]
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        let process = VmmProcess::open(identity).unwrap();
        let stderr = Stderr { log: BoundedLog::default(), following: tokio::spawn(async {}) };

        let console = directory.path().join("console.sock");
        let launched = Launched { process, before: Duration::from_millis(5), after: Duration::ZERO };
        let result =
            QemuVm::connect(Instant::now(), launched, &socket, &console, stderr, 0).await.unwrap().let_go().await;

        let error = result.err().expect("the monitor refused");
        assert!(
            matches!(&error, BootError::Refused { source: VmError::Refused { command: "cont", .. }, .. }),
            "{error:?}"
        );
        assert!(ProcessIdentity::of(identity.pid).is_err(), "the process is gone, and reaped");
    }
}
