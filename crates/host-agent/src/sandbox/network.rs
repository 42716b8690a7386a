//! What a sandbox may reach, looked at and replaced while it is there.

use std::io;

use model::{NetworkPolicy, SandboxId, Status};
use tokio::sync::oneshot;

use super::parts::Parts;
use super::{Command, Sandboxes};
use crate::net::{Denials, FirewallError};

/// What a sandbox may reach and what it tried beside that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkState {
    /// What holds now.
    pub policy: NetworkPolicy,
    /// How often it was replaced.
    pub policy_changes: u64,
    /// What was kept back since the network was made; a pause over the host agent's end makes another one.
    pub denials: Denials,
}

/// Why a sandbox's network was not looked at or changed. What it may reach is as before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// There is none of that id.
    #[error("sandbox not found: {0}")]
    NotFound(SandboxId),
    /// The server ends.
    #[error("the host agent is shutting down")]
    Closing,
    /// It is being made or removed, or is lost.
    #[error("the sandbox has no network in this state (status: {0})")]
    NotReady(Status),
    /// The rules.
    #[error("change the sandbox's rules")]
    Rules(#[from] FirewallError),
    /// The record, without which a restart would bring an older policy back.
    #[error("record the sandbox's network policy")]
    Record(#[source] io::Error),
}

impl Sandboxes {
    /// What a sandbox may reach.
    pub async fn network(&self, id: &SandboxId) -> Result<NetworkState, NetworkError> {
        self.ask_network(id, Command::Network).await
    }

    /// Replaces what a sandbox may reach, also over connections that are open.
    pub async fn set_network(&self, id: &SandboxId, policy: NetworkPolicy) -> Result<(), NetworkError> {
        self.ask_network(id, |reply| Command::SetNetwork(policy, reply)).await
    }

    async fn ask_network<T>(
        &self,
        id: &SandboxId,
        command: impl FnOnce(oneshot::Sender<Result<T, NetworkError>>) -> Command,
    ) -> Result<T, NetworkError> {
        let handle = self.handle(id).ok_or_else(|| NetworkError::NotFound(id.clone()))?;
        let (sender, receiver) = oneshot::channel();
        let ended = || match self.table().is_closing {
            true => NetworkError::Closing,
            false => NetworkError::NotFound(id.clone()),
        };
        handle.commands.send(command(sender)).await.map_err(|_| ended())?;
        receiver.await.map_err(|_| ended())?
    }
}

impl Parts {
    pub(super) async fn network_state(&self) -> Result<NetworkState, NetworkError> {
        let record = self.record();
        let denials = match &self.network {
            Some(network) => network.denials().await?,
            None => Denials::default(),
        };
        Ok(NetworkState { policy: record.spec.network.clone(), policy_changes: record.policy_changes, denials })
    }

    /// First where it holds, then where it is found again. A network that is not there yet is made with what is recorded.
    pub(super) async fn set_network(&mut self, policy: NetworkPolicy) -> Result<(), NetworkError> {
        let before = self.record().clone();
        if let Some(network) = &self.network {
            network.apply(&policy).await?;
        }
        let after = before.with_network(policy);
        let (written, directory) = (after.clone(), self.directory().to_owned());
        let done = crate::blocking::run(move || written.write(&directory)).await;
        if let Err(error) = done.unwrap_or_else(|error| Err(error.into())) {
            if let Some(network) = &self.network {
                network.apply(&before.spec.network).await?;
            }
            return Err(NetworkError::Record(error));
        }
        self.record = Some(after);
        Ok(())
    }
}
