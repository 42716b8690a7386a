//! One running QEMU.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::qmp::Qmp;
use crate::{BootError, BoundedLog, Vm, VmError, VmmProcess};

/// How long QEMU may take from its first instruction to its first answer. It takes 18 to 40 ms on an idle machine.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// What QEMU writes to its standard error, and the task that reads it.
pub(super) struct Stderr {
    pub log: BoundedLog,
    pub following: JoinHandle<()>,
}

/// A virtual machine run by QEMU.
#[derive(Debug)]
pub(super) struct QemuVm {
    process: VmmProcess,
    qmp: Qmp,
    console: BoundedLog,
    stderr: BoundedLog,
}

impl QemuVm {
    /// Takes over a QEMU that was just started with its vCPUs stopped, and lets them run. Kills it when that fails.
    pub async fn connect(
        process: VmmProcess,
        qmp_socket: &Path,
        console_socket: &Path,
        stderr: Stderr,
    ) -> Result<Arc<dyn Vm>, BootError> {
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
        let vm = Self { process, qmp, console, stderr: stderr.log };
        if let Ok(stream) = connect(console_socket).await {
            vm.console.follow(stream);
        }
        if let Err(source) = vm.qmp.execute("cont", json!({})).await {
            vm.process.kill().await;
            return Err(BootError::Refused { last_words: vm.last_words(), source });
        }
        guard.done();
        Ok(Arc::new(vm))
    }
}

/// Ends a process when the future that holds it is dropped before it was told that all is well. Where that future comes
/// to its end itself it must await the end of the process, so that an error means that nothing is left.
struct KillUnlessDone(Option<VmmProcess>);

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

async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
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

    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async { self.qmp.execute("stop", json!({})).await.map(drop) })
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>> {
        Box::pin(async { self.qmp.execute("cont", json!({})).await.map(drop) })
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
        let result = QemuVm::connect(process, &socket, &console, stderr).await;

        let error = result.err().expect("the monitor refused");
        assert!(
            matches!(&error, BootError::Refused { source: VmError::Refused { command: "cont", .. }, .. }),
            "{error:?}"
        );
        assert!(ProcessIdentity::of(identity.pid).is_err(), "the process is gone, and reaped");
    }
}
