//! Processes of a guest that nobody follows: a list of them, signals, and what is typed into their terminals.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::CallOptions;
use model::SandboxId;
use proto::process as pb;
use proto::process::__buffa::oneof;

use super::process::{Client, from_guest};
use super::{HostAgent, HostError, Selector, TerminalSize};

/// What a guest answers at once, unless it does not answer at all.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A process that was started over the API and runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its id in the guest.
    pub pid: u32,
    /// The name that it was given.
    pub tag: Option<String>,
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// How a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It has no choice.
    Kill,
    /// It may end in its own way.
    Terminate,
}

/// The keyboard of a terminal in a guest.
pub struct TerminalInput {
    client: Client,
    selector: Selector,
}

fn at_once() -> CallOptions {
    CallOptions::default().with_timeout(AT_ONCE)
}

impl HostAgent {
    /// Every process that was started over the API and runs.
    pub async fn list_processes(&self, id: &SandboxId) -> Result<Vec<ProcessInfo>, HostError> {
        let reply = self.processes(id)?.list_with_options(pb::ListRequest::default(), at_once()).await;
        let reply = reply.map_err(from_guest)?.into_owned();
        let info = |process: pb::ProcessInfo| {
            let config = process.config.into_option().unwrap_or_default();
            ProcessInfo { pid: process.pid, tag: process.tag, cmd: config.cmd, args: config.args }
        };
        Ok(reply.processes.into_iter().map(info).collect())
    }

    /// Sends a signal to a process and to those that it started.
    pub async fn signal(&self, id: &SandboxId, selector: Selector, signal: Signal) -> Result<(), HostError> {
        send_signal(&self.processes(id)?, selector, signal).await
    }

    /// The keyboard of a terminal.
    pub fn terminal_input(&self, id: &SandboxId, selector: Selector) -> Result<TerminalInput, HostError> {
        Ok(TerminalInput { client: self.processes(id)?, selector })
    }
}

impl TerminalInput {
    /// Types something.
    pub async fn write(&self, bytes: Bytes) -> Result<(), HostError> {
        let input = oneof::process_input::Input::Pty(bytes.into());
        let request = pb::SendInputRequest {
            process: self.selector.clone().into_message().into(),
            input: pb::ProcessInput { input: Some(input), ..Default::default() }.into(),
            ..Default::default()
        };
        self.client.send_input_with_options(request, at_once()).await.map_err(from_guest)?;
        Ok(())
    }

    /// Makes it larger or smaller.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), HostError> {
        let request = pb::UpdateRequest {
            process: self.selector.clone().into_message().into(),
            pty: size.into_message().into(),
            ..Default::default()
        };
        self.client.update_with_options(request, at_once()).await.map_err(from_guest)?;
        Ok(())
    }

    /// Kills what runs in it.
    pub async fn kill(&self) -> Result<(), HostError> {
        send_signal(&self.client, self.selector.clone(), Signal::Kill).await
    }
}

async fn send_signal(client: &Client, selector: Selector, signal: Signal) -> Result<(), HostError> {
    let signal = match signal {
        Signal::Kill => pb::Signal::SIGNAL_SIGKILL,
        Signal::Terminate => pb::Signal::SIGNAL_SIGTERM,
    };
    let request =
        pb::SendSignalRequest { process: selector.into_message().into(), signal: signal.into(), ..Default::default() };
    client.send_signal_with_options(request, at_once()).await.map_err(from_guest)?;
    Ok(())
}
