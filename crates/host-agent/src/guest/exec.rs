//! Running a command in a guest and collecting what it prints.

use std::time::Duration;

use connectrpc::client::{CallOptions, ClientConfig, ServerStream};
use connectrpc::{ConnectError, ErrorCode};
use http::Uri;
use proto::process::process_event::{Event, data_event::Output};
use proto::process::{ProcessClient, ProcessConfig, StartRequest, StartResponse, StartResponseView};

use super::Guest;

/// What is kept of each of standard output and error; the rest is counted.
pub const OUTPUT_LIMIT: usize = 16 * 1024 * 1024;

/// Beyond a command's own timeout, for the guest to kill it and say so.
const GRACE: Duration = Duration::from_secs(5);

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program: a path, or a name that is sought in the user's PATH. No shell is involved.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
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
    /// The connection to the guest broke before the command's end was known. It may have run.
    #[error("the end of the command is unknown")]
    Lost(#[source] Box<ConnectError>),
}

impl Guest {
    /// Runs a command to its end.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutput, ExecError> {
        let timeout = request.timeout;
        let mut options = CallOptions::default();
        if let Some(timeout) = timeout {
            options = options.with_timeout(timeout);
        }
        let mut output = ExecOutput::default();
        let collected = async {
            let mut stream = self.processes().start_with_options(start_request(request), options).await?;
            collect(&mut stream, &mut output).await
        };
        let result = match timeout {
            Some(timeout) => {
                let expired = |_| Err(ConnectError::deadline_exceeded("no answer from the guest"));
                tokio::time::timeout(timeout + GRACE, collected).await.unwrap_or_else(expired)
            }
            None => collected.await,
        };
        match result {
            Ok(()) => Ok(output),
            Err(error) if error.code == ErrorCode::DeadlineExceeded && timeout.is_some() => {
                Ok(ExecOutput { timed_out: true, ..output })
            }
            Err(error) => Err(classify(error)),
        }
    }

    pub(super) fn processes(&self) -> ProcessClient<super::Transport> {
        ProcessClient::new(self.transport.clone(), ClientConfig::new(Uri::from_static("http://guest")).proto())
    }
}

fn start_request(request: ExecRequest) -> StartRequest {
    let config = ProcessConfig { cmd: request.program, args: request.arguments, ..Default::default() };
    StartRequest { process: config.into(), stdin: Some(false), ..Default::default() }
}

pub(super) type Events = ServerStream<axum::body::Body, StartResponseView<'static>>;

/// Reads to the end of the stream, not only to the end of the command: a connection whose answer was not read out
/// cannot be used again, and a new one costs a third of a short command.
///
/// What was printed before an error is in `output` all the same.
async fn collect(stream: &mut Events, output: &mut ExecOutput) -> Result<(), ConnectError> {
    let mut has_ended = false;
    while let Some(message) = stream.message().await? {
        let message: StartResponse = message.to_owned_message();
        match message.event.into_option().and_then(|event| event.event) {
            Some(Event::Data(data)) => match data.output {
                Some(Output::Stdout(bytes)) => keep(&mut output.stdout, &mut output.stdout_omitted, &bytes),
                Some(Output::Stderr(bytes)) => keep(&mut output.stderr, &mut output.stderr_omitted, &bytes),
                Some(Output::Pty(_)) | None => {}
            },
            Some(Event::End(end)) => {
                output.exit_code = if end.exited { end.exit_code } else { 128 + signal_number(&end.status) };
                has_ended = true;
            }
            Some(Event::Start(_) | Event::Keepalive(_)) | None => {}
        }
    }
    if has_ended {
        return Ok(());
    }
    // A stream without an end event says nothing of how the command ended, so it is never a success.
    Err(ConnectError::unavailable("the guest closed the stream before the command's end"))
}

fn keep(kept: &mut Vec<u8>, omitted: &mut u64, bytes: &[u8]) {
    let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
    *omitted += (bytes.len() - room) as u64;
}

/// From a status such as `signal: killed`: the guest names signals as Go does.
fn signal_number(status: &str) -> i32 {
    match status.strip_prefix("signal: ").map(|rest| rest.split(" (").next().unwrap_or(rest)) {
        Some("hangup") => 1,
        Some("interrupt") => 2,
        Some("quit") => 3,
        Some("illegal instruction") => 4,
        Some("aborted") => 6,
        Some("bus error") => 7,
        Some("floating point exception") => 8,
        Some("user defined signal 1") => 10,
        Some("segmentation fault") => 11,
        Some("user defined signal 2") => 12,
        Some("broken pipe") => 13,
        Some("alarm clock") => 14,
        Some("terminated") => 15,
        _ => 9,
    }
}

fn classify(error: ConnectError) -> ExecError {
    match error.code {
        ErrorCode::InvalidArgument | ErrorCode::Unauthenticated | ErrorCode::PermissionDenied => {
            let words = error.message.as_deref().unwrap_or("the guest agent refused the command");
            ExecError::Refused(words.chars().filter(|c| !c.is_control()).take(1024).collect())
        }
        _ => ExecError::Lost(Box::new(error)),
    }
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

    #[test]
    fn signals_become_exit_codes_as_in_a_shell() {
        assert_eq!(signal_number("signal: killed"), 9);
        assert_eq!(signal_number("signal: segmentation fault (core dumped)"), 11);
        assert_eq!(signal_number("signal: terminated"), 15);
    }
}
