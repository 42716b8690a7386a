//! Taking hold of a QEMU that an earlier run of this program started.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::bundle::Bundle;
use super::merge::give_up_merge;
use super::qmp::Qmp;
use super::vm::{FIRST_ANSWER, QemuVm, connect};
use super::{CONSOLE_SOCKET, QMP_SOCKET, log_pipe};
use crate::{AdoptError, AdoptSpec, BoundedLog, Vm, VmError, VmmProcess};

pub(super) async fn adopt(data_dir: &Path, spec: AdoptSpec) -> Result<Arc<dyn Vm>, AdoptError> {
    let AdoptSpec { process, platform, directory, layer_count, first_answer } = spec;
    let pid = process.pid;
    let process = VmmProcess::open(process).map_err(|_| AdoptError::Ended)?;
    if !executes(pid, data_dir, &platform.bundle) {
        return Err(AdoptError::Other { pid });
    }
    let (command, socket) = ("connect", directory.join(QMP_SOCKET));
    let qmp = tokio::select! {
        qmp = tokio::time::timeout(FIRST_ANSWER, Qmp::connect(&socket)) => {
            qmp.unwrap_or(Err(VmError::Silent { command }))?
        }
        () = process.ended() => return Err(AdoptError::Ended),
    };
    give_up_merge(&qmp).await?;
    let (console, stderr) = (BoundedLog::default(), BoundedLog::default());
    // What has no log any more works as well.
    if let Ok(stream) = connect(&directory.join(CONSOLE_SOCKET)).await {
        console.follow(stream);
    }
    if let Ok(reader) = log_pipe::open(&directory) {
        stderr.follow(reader);
    }
    let launch_delay = Duration::ZERO;
    Ok(Arc::new(QemuVm { process, qmp, console, stderr, layer_count, first_answer, launch_delay, guard: None }))
}

/// Whether a process executes the program of this copy of QEMU: the very file, wherever it appears.
fn executes(pid: i32, data_dir: &Path, bundle: &str) -> bool {
    let same = || {
        let bundle = Bundle::stored(data_dir, bundle).ok()?;
        let program = bundle.root().join(bundle.program().strip_prefix("/").ok()?);
        let (ours, theirs) = (fs::metadata(program).ok()?, fs::metadata(format!("/proc/{pid}/exe")).ok()?);
        Some((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    };
    same().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Platform, ProcessIdentity};

    fn spec(process: ProcessIdentity, directory: &Path) -> AdoptSpec {
        let empty = String::new;
        let platform = Platform {
            vmm: empty(),
            bundle: "aa".to_owned(),
            machine: empty(),
            cpu: empty(),
            accelerator: empty(),
            host_cpu: empty(),
            tsc_khz: 1,
        };
        let (directory, first_answer) = (directory.to_owned(), Duration::ZERO);
        AdoptSpec { process, platform, directory, layer_count: 0, first_answer }
    }

    /// A copy of QEMU whose program is `program`.
    fn store(data_dir: &Path, program: &Path) {
        let root = data_dir.join("vmm/aa");
        fs::create_dir_all(&root).unwrap();
        let description = r#"{"program":"/qemu","version":{"major":10,"minor":0,"patch":0}}"#;
        fs::write(root.join("bundle.json"), description).unwrap();
        std::os::unix::fs::symlink(program, root.join("qemu")).unwrap();
    }

    #[tokio::test]
    async fn only_the_very_process_with_the_very_program_is_adopted() {
        let data_dir = tempfile::tempdir().unwrap();
        let own = ProcessIdentity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let refusal = async |process| adopt(data_dir.path(), spec(process, data_dir.path())).await.err().unwrap();
        assert!(matches!(refusal(own).await, AdoptError::Other { .. }), "no such copy");
        store(data_dir.path(), Path::new("/bin/sh"));
        assert!(matches!(refusal(own).await, AdoptError::Other { .. }), "another program");
        fs::remove_file(data_dir.path().join("vmm/aa/qemu")).unwrap();
        store(data_dir.path(), &std::env::current_exe().unwrap());
        assert!(matches!(refusal(own).await, AdoptError::Control(VmError::Gone { .. })), "nobody is at the socket");
        let earlier = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        assert!(matches!(refusal(earlier).await, AdoptError::Ended));
    }
}
