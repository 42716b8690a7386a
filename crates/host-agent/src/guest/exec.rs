//! Running a command in a guest and collecting what it prints.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use proto::direct::answer::News;
use proto::direct::end::End;
use proto::direct::word::Word as Said;
use proto::direct::{Answer, Run};

use super::direct::{Conversation, DirectError};
use super::{ANSWER_DEADLINE, Guest, error};

/// What is kept of each of standard output and error; the rest is counted.
pub const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;

/// A command that a signal ended has its number added to this as its exit code, as under a shell.
const SIGNALLED: i32 = 128;

/// Beyond a command's own timeout, for the guest to kill it and say so.
const GRACE: Duration = Duration::from_secs(5);

/// A command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program: a path, or a name that is sought in the user's PATH. No shell is involved.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to its environment.
    pub envs: BTreeMap<String, String>,
    /// Its directory; the user's home where there is none.
    pub cwd: Option<String>,
    /// Whom it runs as; the template's default user where there is none.
    pub user: Option<String>,
    /// After this long its process group is killed.
    pub timeout: Option<Duration>,
}

/// What a command did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stdout: Vec<u8>,
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stderr: Vec<u8>,
    /// Bytes of standard output that were left out.
    pub stdout_omitted: u64,
    /// Bytes of standard error that were left out.
    pub stderr_omitted: u64,
    /// As a shell counts: a signal's number plus 128 for a command that a signal ended.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether its time was over and it was killed; then it has no exit code.
    pub timed_out: bool,
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The guest agent refused to start it.
    #[error("{0}")]
    Refused(String),
    /// The guest stands still for a capture, or does not know yet who it is: nothing was begun.
    #[error("the guest stands still")]
    Early,
    /// The guest agent could not, through no fault of the request.
    #[error("the guest failed: {0}")]
    Failed(String),
    /// The guest could not be asked, so nothing was begun.
    #[error("the command was not begun")]
    NotBegun(#[source] io::Error),
    /// The connection to the guest broke before the command's end was known. It may have run.
    #[error("the end of the command is unknown")]
    Lost(#[source] DirectError),
}

impl Guest {
    /// Runs a command to its end. Dropping this before kills it.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutput, ExecError> {
        let timeout = request.timeout;
        let mut conversation = self.conversation().await.map_err(ExecError::NotBegun)?;
        let word = Said::Run(Box::new(self.run(request)));
        // A guest that does not read would be spoken to for ever.
        let said = tokio::time::timeout(ANSWER_DEADLINE, conversation.say(word)).await;
        said.unwrap_or_else(|_| Err(DirectError::Broken(io::ErrorKind::TimedOut.into()))).map_err(ExecError::Lost)?;
        let mut running = Running(Some(conversation));
        let mut output = ExecOutput::default();
        let collected = running.collect(&mut output);
        let ended = match timeout {
            // The guest kills it when its time is over, and says so.
            Some(timeout) => match tokio::time::timeout(timeout + GRACE, collected).await {
                Ok(ended) => ended?,
                Err(_) => return Ok(ExecOutput { timed_out: true, ..output }),
            },
            None => collected.await?,
        };
        self.keep(running.finish());
        match ended {
            End::ExitCode(code) => output.exit_code = code,
            End::Signal(signal) => {
                (output.exit_code, output.signal) = (SIGNALLED.saturating_add(signal), Some(signal));
            }
            End::TimedOut(_) => output.timed_out = true,
        }
        Ok(output)
    }

    fn run(&self, request: ExecRequest) -> Run {
        let milliseconds = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        Run {
            access_token: self.access_token.0.to_string(),
            cmd: request.program,
            args: request.arguments,
            envs: request.envs.into_iter().collect(),
            cwd: request.cwd.unwrap_or_default(),
            user: request.user.unwrap_or_default(),
            timeout_ms: request.timeout.map_or(0, milliseconds),
            ..Default::default()
        }
    }
}

/// A command that runs at the other end of a conversation. It is killed when nobody waits for it any more.
struct Running(Option<Conversation>);

impl Running {
    /// Waits for the end. What was printed before an error is in `output` all the same.
    async fn collect(&mut self, output: &mut ExecOutput) -> Result<End, ExecError> {
        loop {
            let conversation = self.0.as_mut().ok_or(ExecError::Lost(DirectError::Garbled))?;
            let heard = conversation.hear().await;
            let Answer { error, is_fault, is_early, news, .. } = heard.map_err(|error| self.lost(error))?;
            match news {
                Some(News::Stdout(bytes)) => keep(&mut output.stdout, &mut output.stdout_omitted, &bytes),
                Some(News::Stderr(bytes)) => keep(&mut output.stderr, &mut output.stderr_omitted, &bytes),
                Some(News::End(end)) => return end.end.ok_or_else(|| self.lost(DirectError::Garbled)),
                None if error.is_empty() => return Err(self.lost(DirectError::Garbled)),
                None if is_early => {
                    self.0 = None;
                    return Err(ExecError::Early);
                }
                None => {
                    self.0 = None;
                    let words = error::printable(&error);
                    return Err(if is_fault { ExecError::Failed(words) } else { ExecError::Refused(words) });
                }
            }
        }
    }

    /// There is nobody left to be told to kill it.
    fn lost(&mut self, error: DirectError) -> ExecError {
        self.0 = None;
        ExecError::Lost(error)
    }

    /// It has ended: the conversation is free again.
    fn finish(mut self) -> Option<Conversation> {
        self.0.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(conversation) = self.0.take() {
            conversation.last_word(Said::Kill(Box::default()));
        }
    }
}

fn keep(kept: &mut Vec<u8>, omitted: &mut u64, bytes: &[u8]) {
    let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
    *omitted += (bytes.len() - room) as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_counted_not_kept() {
        let (mut kept, mut omitted) = (vec![0; OUTPUT_LIMIT - 3], 0);
        keep(&mut kept, &mut omitted, b"12345");
        keep(&mut kept, &mut omitted, b"67");
        assert_eq!((kept.len(), omitted), (OUTPUT_LIMIT, 4));
    }
}
