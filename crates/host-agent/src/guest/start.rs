//! What a template starts in its guests: a command that goes on, and one that says when the first is ready.

use std::time::Duration;

use axum::body::Body;
use connectrpc::ConnectError;
use connectrpc::client::{ClientConfig, ServerStream};
use http::Uri;
use proto::process::process_event::{Event, data_event::Output};
use proto::process::{ProcessClient, ProcessConfig, StartRequest, StartResponse, StartResponseView};

use super::exec::{ExecError, ExecRequest};
use super::{Guest, Transport};

/// How long a template's command may take to become ready.
pub const START_LIMIT: Duration = Duration::from_secs(200);

/// The name by which callers find it among the guest's processes.
const TAG: &str = "start";

/// Between two questions whether it is ready.
const INTERVAL: Duration = Duration::from_millis(200);

/// How much of what it printed is told where it fails.
const LAST_WORDS: usize = 2000;

/// Why a template's command is not ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It ended with a failure.
    #[error("the template's start command ended with {status}: {last_words}")]
    Ended {
        /// As the guest says.
        status: String,
        /// What it printed last.
        last_words: String,
    },
    /// It is not ready in time.
    #[error("the template's start command is not ready after {} seconds: {last_words}", START_LIMIT.as_secs())]
    NotReady {
        /// What it printed last.
        last_words: String,
    },
    /// It could not be started, or the guest says nothing more of it.
    #[error("start the template's command")]
    Guest(#[source] Box<ConnectError>),
    /// It could not be asked whether it is ready.
    #[error("ask whether the template's command is ready")]
    Ask(#[source] ExecError),
}

impl Guest {
    /// Starts `command` as the default user and returns when `ready` succeeds. It then goes on, and nobody follows it.
    pub async fn start(&self, command: &str, ready: &str) -> Result<(), StartError> {
        let mut last_words = Vec::new();
        let started = async {
            let stream = self.processes().start(start_request(command)).await;
            let mut stream = stream.map_err(|error| StartError::Guest(Box::new(error)))?;
            tokio::select! {
                ready = self.until_ready(ready) => ready,
                failed = until_failed(&mut stream, &mut last_words) => Err(failed),
            }
        };
        match tokio::time::timeout(START_LIMIT, started).await {
            Ok(started) => started,
            Err(_) => Err(StartError::NotReady { last_words: printable(&last_words) }),
        }
    }

    fn processes(&self) -> ProcessClient<Transport> {
        ProcessClient::new(self.transport.clone(), ClientConfig::new(Uri::from_static("http://guest")).proto())
    }

    async fn until_ready(&self, ready: &str) -> Result<(), StartError> {
        let arguments = vec!["-c".to_owned(), ready.to_owned()];
        let ask =
            ExecRequest { program: "/bin/sh".to_owned(), arguments, timeout: Some(START_LIMIT), ..Default::default() };
        while self.exec(ask.clone()).await.map_err(StartError::Ask)?.exit_code != 0 {
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }
}

fn start_request(command: &str) -> StartRequest {
    let args = vec!["-c".to_owned(), command.to_owned()];
    let config = ProcessConfig { cmd: "/bin/sh".to_owned(), args, ..Default::default() };
    StartRequest { process: config.into(), tag: Some(TAG.to_owned()), stdin: Some(false), ..Default::default() }
}

/// Listens until the command has failed. One that ends well has put its work into the background.
async fn until_failed(
    stream: &mut ServerStream<Body, StartResponseView<'static>>,
    last_words: &mut Vec<u8>,
) -> StartError {
    loop {
        let message: StartResponse = match stream.message().await {
            Ok(Some(message)) => message.to_owned_message(),
            Ok(None) => return std::future::pending().await,
            Err(error) => return StartError::Guest(Box::new(error)),
        };
        match message.event.into_option().and_then(|event| event.event) {
            Some(Event::Data(data)) => match data.output {
                Some(Output::Stdout(bytes) | Output::Stderr(bytes)) => {
                    last_words.extend_from_slice(&bytes);
                    last_words.drain(..last_words.len().saturating_sub(LAST_WORDS));
                }
                Some(Output::Pty(_)) | None => {}
            },
            Some(Event::End(end)) if !(end.exited && end.exit_code == 0) => {
                return StartError::Ended { status: end.status, last_words: printable(last_words) };
            }
            _ => {}
        }
    }
}

/// A guest's bytes, for a message of ours.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
