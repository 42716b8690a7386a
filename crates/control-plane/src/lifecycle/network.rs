//! What a sandbox may reach, looked at and replaced while it is there.

use model::{NetworkPolicy, OwnerId, SandboxId, Status};

use super::{Lifecycle, LifecycleError};
use crate::host::HostNetwork;

impl Lifecycle {
    /// Replaces what a running or paused sandbox may reach: first where it holds, then in its record. A call that was cut
    /// between may be made again.
    pub async fn set_network(
        &self,
        owner: OwnerId,
        id: SandboxId,
        policy: NetworkPolicy,
    ) -> Result<HostNetwork, LifecycleError> {
        let this = self.clone();
        self.detached("network", async move { this.set_network_now(owner, id, policy).await }).await
    }

    async fn set_network_now(
        &self,
        owner: OwnerId,
        id: SandboxId,
        policy: NetworkPolicy,
    ) -> Result<HostNetwork, LifecycleError> {
        let sandbox = self.store.get(&owner, &id).await?.ok_or(LifecycleError::NotFound)?;
        if !matches!(sandbox.status, Status::Running | Status::Paused) {
            return Err(LifecycleError::not_running(&sandbox));
        }
        self.host.set_network(&id, &policy).await.map_err(LifecycleError::Host)?;
        if !self.store.set_network(&sandbox, &policy).await? {
            return Err(LifecycleError::NotFound);
        }
        self.host.network(&id).await.map_err(LifecycleError::Host)
    }
}
