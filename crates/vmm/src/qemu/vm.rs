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
            return Err(BootError::Refused { last_words: vm.last_words(), source });
        }
        guard.done();
        Ok(Arc::new(vm))
    }
}

/// Ends a process unless told that all is well: also when the future that holds it is dropped.
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
