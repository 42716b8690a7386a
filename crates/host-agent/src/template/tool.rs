//! Runs the external programs that builds are made of: each in its own process group, which is killed as a whole and
//! waited for when the build is cancelled. Knows nothing of what the programs do.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::error::BuildError;

/// How many of a program's last lines an error shows.
const TAIL_LINES: usize = 30;
/// Longer lines are cut: what packages print is not ours.
const LINE_BYTES: usize = 4096;
/// More than any of the programs has to say on its standard output.
const OUTPUT_BYTES: u64 = 8 << 20;
/// How long killed processes may take to go.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A program that builds need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Tells what apt is configured to.
    AptConfig,
    /// Tells where packages come from.
    AptGet,
    /// Reads the dependencies of kernel modules.
    Depmod,
    /// Makes file systems from directories.
    Mke2fs,
    /// Makes directories from Debian packages.
    Mmdebstrap,
    /// Keeps mounts away from the rest of the machine.
    Unshare,
}

impl Tool {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AptConfig => "apt-config",
            Self::AptGet => "apt-get",
            Self::Depmod => "depmod",
            Self::Mke2fs => "mke2fs",
            Self::Mmdebstrap => "mmdebstrap",
            Self::Unshare => "unshare",
        }
    }

    /// The Debian package that has it.
    pub fn package(self) -> &'static str {
        match self {
            Self::AptConfig | Self::AptGet => "apt",
            Self::Depmod => "kmod",
            Self::Mke2fs => "e2fsprogs",
            Self::Mmdebstrap => "mmdebstrap",
            Self::Unshare => "util-linux",
        }
    }
}

/// Every program of a build.
pub(super) const NEEDED: [Tool; 6] =
    [Tool::AptConfig, Tool::AptGet, Tool::Depmod, Tool::Mke2fs, Tool::Mmdebstrap, Tool::Unshare];

/// The directories in which programs are looked for.
#[derive(Debug, Clone)]
pub struct ToolPath(Vec<PathBuf>);

impl ToolPath {
    /// Where this process finds programs, and the system's own directories, which some accounts' paths lack.
    pub fn system() -> Self {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<_> = std::env::split_paths(&inherited).filter(|path| path.is_absolute()).collect();
        directories.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
        Self(directories)
    }

    /// These directories and no other.
    pub fn of(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(directories.into_iter().collect())
    }

    pub(super) fn find(&self, tool: Tool) -> Result<PathBuf, BuildError> {
        let candidates = self.0.iter().map(|directory| directory.join(tool.name()));
        candidates.into_iter().find(|path| path.is_file()).ok_or(BuildError::MissingTool { tool })
    }

    fn joined(&self) -> std::ffi::OsString {
        std::env::join_paths(&self.0).unwrap_or_default()
    }
}

/// Runs programs on behalf of one build.
pub(super) struct Runner<'a> {
    pub path: &'a ToolPath,
    pub cancel: &'a CancellationToken,
    /// Every program gets it as its standard input, and with it the file's lock: the lock is held for as long as any
    /// of them lives, also when this process was killed.
    pub lock: &'a File,
}

impl Runner<'_> {
    /// Runs `tool` to its end, handing each line of its standard error to `on_line`; answers its standard output.
    pub(super) async fn run(
        &self,
        tool: Tool,
        arrange: impl FnOnce(&mut Command),
        on_line: impl FnMut(&str),
    ) -> Result<String, BuildError> {
        if self.cancel.is_cancelled() {
            return Err(BuildError::Interrupted);
        }
        let mut child = self.start(tool, arrange)?;
        let mut group = Group::of(&child);
        let mut work = Box::pin(finish(&mut child, on_line));
        let ended = tokio::select! {
            biased;
            ended = &mut work => ended,
            () = self.cancel.cancelled() => {
                group.kill();
                let gone = tokio::time::timeout(KILL_PATIENCE, work).await;
                group.forget_if(gone.is_ok());
                return Err(BuildError::Interrupted);
            }
        };
        drop(work);
        group.forget_if(true);
        let (status, output, tail) = ended.map_err(|source| BuildError::Start { tool, source })?;
        if status.success() { Ok(output) } else { Err(failure(tool, status, &tail)) }
    }

    fn start(&self, tool: Tool, arrange: impl FnOnce(&mut Command)) -> Result<Child, BuildError> {
        let cannot_start = |source| BuildError::Start { tool, source };
        let mut command = Command::new(self.path.find(tool)?);
        command
            .env("PATH", self.path.joined())
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::from(self.lock.try_clone().map_err(cannot_start)?))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        arrange(&mut command);
        command.spawn().map_err(cannot_start)
    }
}

type Ended = (ExitStatus, String, VecDeque<String>);

/// Both pipes are read to their ends, so that this is over only when all descendants are gone.
async fn finish(child: &mut Child, on_line: impl FnMut(&str)) -> std::io::Result<Ended> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (output, tail) = tokio::join!(read_output(stdout), read_lines(stderr, on_line));
    Ok((child.wait().await?, output?, tail?))
}

async fn read_output(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut output = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(OUTPUT_BYTES).read_to_end(&mut output).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

async fn read_lines(
    pipe: Option<impl AsyncRead + Unpin>,
    mut on_line: impl FnMut(&str),
) -> std::io::Result<VecDeque<String>> {
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    let Some(pipe) = pipe else { return Ok(tail) };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while (&mut reader).take(LINE_BYTES as u64).read_until(b'\n', &mut line).await? > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        on_line(&text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
    Ok(tail)
}

fn failure(tool: Tool, status: ExitStatus, tail: &VecDeque<String>) -> BuildError {
    let tail: Vec<&str> = tail.iter().map(String::as_str).collect();
    match tail.iter().find(|line| line.contains("No space left on device")) {
        Some(line) => BuildError::DiskFull { during: format!("{}: {line}", tool.name()) },
        None => BuildError::Failed { tool, status: status.to_string(), tail: tail.join("\n") },
    }
}

/// A process group that is killed unless it is known to be gone.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    fn kill(&self) {
        if let Some(group) = self.0 {
            // An error says that it is gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// A reaped leader's number may be another process's next.
    fn forget_if(&mut self, is_gone: bool) {
        if is_gone {
            self.0 = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory whose `unshare` is the given shell script.
    fn scripted(script: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("unshare");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
        directory
    }

    async fn run(script: &str, cancel: CancellationToken, on_line: impl FnMut(&str)) -> Result<String, BuildError> {
        let directory = scripted(script);
        let path = ToolPath::of([directory.path().into(), "/usr/bin".into(), "/bin".into()]);
        let lock = tempfile::tempfile().unwrap();
        Runner { path: &path, cancel: &cancel, lock: &lock }.run(Tool::Unshare, |_| {}, on_line).await
    }

    #[tokio::test]
    async fn output_is_answered_and_lines_are_passed_on() {
        let mut lines = Vec::new();
        let output = run("echo out; echo one >&2; echo two >&2", CancellationToken::new(), |line| {
            lines.push(line.to_owned());
        });
        assert_eq!(output.await.unwrap(), "out\n");
        assert_eq!(lines, ["one", "two"]);
    }

    #[tokio::test]
    async fn a_failure_shows_the_last_lines_only() {
        let error = run("seq 100 >&2; exit 3", CancellationToken::new(), |_| {}).await.unwrap_err();
        let BuildError::Failed { tool: Tool::Unshare, status, tail } = error else { panic!("{error:?}") };
        assert!(status.contains('3'), "{status}");
        assert_eq!(tail.lines().collect::<Vec<_>>(), (71..=100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_full_disk_is_told_apart() {
        let script = "echo 'tar: x: No space left on device' >&2; echo later >&2; exit 1";
        assert!(run(script, CancellationToken::new(), |_| {}).await.unwrap_err().is_out_of_space());
    }

    #[tokio::test]
    async fn a_missing_program_is_named_with_its_package() {
        let (empty, cancel, lock) =
            (tempfile::tempdir().unwrap(), CancellationToken::new(), tempfile::tempfile().unwrap());
        let path = ToolPath::of([empty.path().to_owned()]);
        let runner = Runner { path: &path, cancel: &cancel, lock: &lock };
        let error = runner.run(Tool::Mke2fs, |_| {}, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("mke2fs is not installed") && error.contains("e2fsprogs"), "{error}");
        assert!(error.contains("make setup"), "{error}");
    }

    #[tokio::test]
    async fn cancelling_ends_descendants_too() {
        let cancel = CancellationToken::new();
        let mut descendant = None;
        let script = "sleep 1000 & echo $! >&2; wait";
        let error = run(script, cancel.clone(), |line| {
            descendant = Pid::from_raw(line.parse().unwrap());
            cancel.cancel();
        });
        assert!(matches!(error.await, Err(BuildError::Interrupted)));
        // It may be a zombie until whoever adopted it has looked; it must not be running.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", descendant.unwrap().as_raw_nonzero()));
        assert!(state.is_err() || state.unwrap().contains(") Z "));
    }
}
