//! How a sandbox of the warm pool becomes somebody's.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use model::NetworkPolicy;
use rustix::fs::{CWD, RenameFlags};

use super::super::confinement::Confinement;
use super::super::ledger::Refusal;
use super::super::parts::{Parts, file_error, identity};
use super::super::record::{Record, settle, unsettle};
use super::super::{CreateError, SandboxSpec, Start};
use crate::host::Host;
use crate::net;
use crate::snapshot::BakeKey;
use crate::template::Template;

/// A guest that is warm takes milliseconds. One that takes longer is worth no more than a fresh one.
const DEADLINE: Duration = Duration::from_secs(2);

/// Why a sandbox of the pool did not become the wanted one.
enum Unclaimed {
    /// The owner may have no more. The sandbox is as good as before.
    Refused(Refusal),
    /// It is worth nothing.
    Useless(CreateError),
}

impl<E: Into<CreateError>> From<E> for Unclaimed {
    fn from(error: E) -> Self {
        Self::Useless(error.into())
    }
}

impl Parts {
    /// Takes what the pool has of this kind and makes it the wanted sandbox. False where it has nothing that lives.
    pub(in crate::sandbox) async fn claim(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        created_at: SystemTime,
        template: &Template,
    ) -> Result<bool, CreateError> {
        let begun = Instant::now();
        let pool = &host.pool;
        let key = BakeKey::new(template, &spec.shape, &host.vmm.platform());
        pool.note(&key, &spec.template, spec.shape);
        while let Some(member) = pool.take(&key) {
            *self = member;
            match self.become_one(host, spec, created_at, template).await {
                Ok(()) => {
                    let (hits, took) = (pool.count(&pool.hits), begun.elapsed());
                    tracing::info!(sandbox = %spec.id, hits, ?took, "claimed from the warm pool");
                    return Ok(true);
                }
                Err(Unclaimed::Refused(refusal)) => {
                    *self = pool.put(&key, std::mem::take(self)).unwrap_or_default();
                    return Err(refusal.into());
                }
                Err(Unclaimed::Useless(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a sandbox of the warm pool was not fit to be handed out"
                    );
                    self.dismantle().await.map_err(CreateError::Left)?;
                }
            }
        }
        let misses = pool.count(&pool.misses);
        tracing::debug!(sandbox = %spec.id, misses, "the warm pool has none of this kind");
        Ok(false)
    }

    async fn become_one(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        created_at: SystemTime,
        template: &Template,
    ) -> Result<(), Unclaimed> {
        let vm = self.vm.clone().filter(|_| self.is_alive());
        let vm = vm.ok_or_else(|| CreateError::Ended { last_words: "it was in the warm pool".to_owned() })?;
        let share = self.share.as_mut().expect("what is in the pool has its share of memory");
        let place = host.ledger.hand_over(share, &spec.owner).map_err(Unclaimed::Refused)?;
        self.place = Some(place);
        self.move_to(&host.sandboxes_dir().join(spec.id.as_str()))?;
        let network = self.network.as_mut().expect("what is in the pool has a network");
        network.give_to(&spec.id).map_err(net::CreateError::from)?;
        // Nobody has waited for what was made before.
        self.confinement = Confinement::default();
        // The default one is what it was made with.
        if spec.network != NetworkPolicy::default() {
            let begun = Instant::now();
            self.enforce(host, &spec.network).await.map_err(CreateError::Policy)?;
            self.confinement.fence = begun.elapsed();
        }
        let guest = self.guest.as_ref().expect("what is in the pool has a guest").renewed();
        let restored = async {
            tokio::select! {
                restored = guest.restore(identity(host, spec, template), DEADLINE) => {
                    restored.map_err(CreateError::Introduce)
                }
                () = vm.process().ended() => Err(CreateError::Ended { last_words: vm.last_words() }),
            }
        };
        self.start = Start::Pool;
        let mut record = Record::new(spec.clone(), created_at, self.record().build.clone());
        record.layers = self.record().layers.clone();
        record.run = self.run(host, &guest);
        // The disk takes as long as the guest. Where the host agent is cut meanwhile the next one tells the guest again.
        unsettle(self.directory()).map_err(file_error("mark", self.directory()))?;
        let ((), record) = tokio::try_join!(restored, self.write(record))?;
        settle(self.directory());
        (self.record, self.guest) = (Some(record), Some(guest));
        Ok(())
    }

    /// Gives the directory another name, which nothing may have. What its monitor has open stays open.
    fn move_to(&mut self, directory: &Path) -> Result<(), CreateError> {
        let moved = rustix::fs::renameat_with(CWD, self.directory(), CWD, directory, RenameFlags::NOREPLACE);
        moved.map_err(|error| file_error("make", directory)(error.into()))?;
        self.directory = Some(directory.to_owned());
        Ok(())
    }
}
