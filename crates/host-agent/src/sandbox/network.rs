//! What a sandbox may reach, looked at and replaced while it is there.

use std::io;
use std::time::Duration;

use model::{NetworkPolicy, SandboxId, Status};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::parts::{Parts, identity};
use super::record::Record;
use super::{Command, Sandboxes};
use crate::egress::{self, Egress, EgressError};
use crate::guest::GuestError;
use crate::host::Host;
use crate::net::{Denials, FirewallError};

/// A guest takes milliseconds to hear whom it is to believe. One that does not listen keeps no policy from holding.
const GUEST_PATIENCE: Duration = Duration::from_secs(5);

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
    /// The resolver and proxy.
    #[error("let the sandbox find names")]
    Egress(#[from] EgressError),
    /// What the resolver and proxy before left.
    #[error("end the resolver and proxy that the sandbox had")]
    End(#[source] io::Error),
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
        let names = self.egress.as_ref().map_or(0, Egress::refused);
        let denials = Denials { names, ..denials };
        Ok(NetworkState { policy: record.spec.network.clone(), policy_changes: record.policy_changes, denials })
    }

    /// First where it holds, then where it is found again. A network that is not there yet is made with what is recorded.
    pub(super) async fn set_network(&mut self, host: &Host, policy: NetworkPolicy) -> Result<(), NetworkError> {
        let before = self.record().clone();
        let after = before.with_network(policy);
        if let Err(error) = self.enforce_and_record(host, after).await {
            self.enforce(host, &before.spec.network).await?;
            return Err(error);
        }
        Ok(())
    }

    async fn enforce_and_record(&mut self, host: &Host, after: Record) -> Result<(), NetworkError> {
        self.tell_whom_to_believe(host, &after).await;
        self.enforce(host, &after.spec.network).await?;
        let (written, directory) = (after.clone(), self.directory().to_owned());
        let done = crate::blocking::run(move || written.write(&directory)).await;
        done.unwrap_or_else(|error| Err(error.into())).map_err(NetworkError::Record)?;
        self.record = Some(after);
        Ok(())
    }

    /// Tells the guest who vouches for the hosts whose requests get headers, before anybody does. A policy holds whether or not
    /// its guest listens: one that does not is told when it is resumed, and until then believes nobody of them.
    async fn tell_whom_to_believe(&self, host: &Host, after: &Record) {
        let Some(guest) = self.guest.as_ref().filter(|_| !after.spec.network.headers().is_empty()) else { return };
        let identity = identity(host, &after.spec, self.template());
        let told = timeout(GUEST_PATIENCE, guest.introduce(&identity)).await.unwrap_or(Err(GuestError::Silent));
        if let Err(error) = told {
            let (sandbox, error) = (&after.spec.id, &error as &dyn std::error::Error);
            tracing::warn!(%sandbox, error, "it was not told who vouches for hosts whose requests get headers");
        }
    }

    /// Makes a policy the one that holds, where there is a network. What goes through the resolver and proxy before ends.
    pub(super) async fn enforce(&mut self, host: &Host, policy: &NetworkPolicy) -> Result<(), NetworkError> {
        let Some(network) = &self.network else { return Ok(()) };
        network.apply(policy).await?;
        self.end_egress().await.map_err(NetworkError::End)?;
        Ok(self.begin_egress(host, policy).await?)
    }

    /// Starts the resolver and proxy of a policy that needs one.
    pub(super) async fn begin_egress(&mut self, host: &Host, policy: &NetworkPolicy) -> Result<(), EgressError> {
        if let Some(network) = &self.network
            && egress::is_needed(policy)
        {
            self.egress = Some(Egress::start(host, &**network, policy, self.directory()).await?);
        }
        Ok(())
    }

    /// Goes on with the resolver and proxy that an earlier host agent started, or starts another.
    pub(super) async fn keep_egress(&mut self, host: &Host, policy: &NetworkPolicy) -> Result<(), EgressError> {
        let Some(network) = &self.network else { return Ok(()) };
        self.egress = Egress::find(host, &**network, policy, self.directory());
        if self.egress.is_some() {
            return Ok(());
        }
        if let Some(other) = egress::recorded(self.directory()) {
            other.kill().await;
        }
        self.begin_egress(host, policy).await
    }

    /// Resolves when the resolver and proxy is lost and is to be started again; never where there is none.
    pub(super) fn egress_lost(&self) -> impl Future<Output = ()> + use<> {
        let lost = self.egress.as_ref().map(Egress::lost);
        async move {
            match lost {
                Some(lost) => lost.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Starts the resolver and proxy again that ended by itself. Where that fails it is as if the new one had ended at once.
    pub(super) async fn renew_egress(&mut self, host: &Host) {
        let spec = self.record().spec.clone();
        tracing::warn!(sandbox = %spec.id, "its resolver and proxy ended; another one is started");
        let renewed = match &mut self.egress {
            Some(egress) => {
                egress.is_renewed();
                egress.end().await.map_err(NetworkError::End)
            }
            None => Ok(()),
        };
        let renewed = match renewed {
            Ok(()) => self.begin_egress(host, &spec.network).await.map_err(NetworkError::Egress),
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::error!(sandbox = %spec.id, error = &error as &dyn std::error::Error, "it finds no names for now");
        }
    }

    pub(super) async fn end_egress(&mut self) -> io::Result<()> {
        if let Some(egress) = &self.egress {
            egress.end().await?;
            self.egress = None;
        }
        Ok(())
    }
}
