//! Sandboxes that begin where a captured one stood: out of a baked image or a snapshot, with memory and disk of their
//! own over what they share.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use model::{Extent, SnapshotId};
use tokio_util::sync::CancellationToken;
use vmm::{Memory, RestoreSpec};

use super::parts::{MemoryOwner, OVERLAY_FILE, Parts, Room, file_error, identity};
use super::{CreateError, SandboxSpec, Start};
use crate::guest::Identity;
use crate::host::Host;
use crate::machine::Failpoint;
use crate::snapshot::{Frozen, Layer, Origin, link};

/// The file in a sandbox's directory that is the memory it came from, as long as it has not been paused.
pub(super) const FROZEN_MEMORY_FILE: &str = "frozen-memory";

/// A restored guest answers in a tenth of a second; this is for a busy host, and still less than a boot takes there.
pub(super) const RESTORE_DEADLINE: Duration = Duration::from_secs(15);

impl Parts {
    /// Makes the sandbox out of a snapshot. What its guest may have read of itself before is replaced. It boots where a disk
    /// alone was captured.
    pub(super) async fn restore_snapshot(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        id: &SnapshotId,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let wanted = Origin::new(self.template(), spec.shape, host.vmm.platform());
        let snapshot = host.snapshots.get(id)?;
        snapshot.check(&wanted)?;
        let restored = match snapshot.extent() {
            Extent::Full => self.restore(host, spec, &snapshot, Some(random_uuid()), cancel).await,
            Extent::Disk => self.boot_snapshot(host, spec, &snapshot, cancel).await,
        };
        if restored.is_err() {
            // One that was deleted in this moment fails as some missing file.
            host.snapshots.get(id)?;
        }
        restored
    }

    async fn boot_snapshot(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        snapshot: &Frozen,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let layers = take_disk(snapshot, self.directory())?;
        self.record_layers(layers)?;
        host.surroundings.reached(Failpoint::RecordWritten);
        let template = self.template().clone();
        self.boot_from_disk(host, spec, &template, Room::Reserved, cancel).await
    }

    /// Makes the sandbox out of what was captured.
    pub(super) async fn restore(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        frozen: &Frozen,
        boot_id: Option<String>,
        cancel: &CancellationToken,
    ) -> Result<(), CreateError> {
        let _turn = host.turns.take_unless(cancel).await?;
        let begun = Instant::now();
        let directory = self.directory().to_owned();
        self.record_layers(take_files(frozen, &directory)?)?;
        host.surroundings.reached(Failpoint::RecordWritten);
        let state = frozen.state();
        let state = File::open(&state).map_err(file_error("open", &state))?.into();
        (self.memory, self.start) = (MemoryOwner::Shared, Start::Restore);
        let platform = frozen.manifest.origin.platform.clone();
        self.platform = Some(platform.clone());
        let machine = self.machine(host, spec, Memory::Frozen(directory.join(FROZEN_MEMORY_FILE)))?;
        let jail = self.jail(host);
        let vm = host.vmm.restore(RestoreSpec { machine, state, platform }, &jail).await?;
        self.confinement.jail = vm.launch_delay();
        self.vm = Some(vm.clone());
        let loaded = begun.elapsed();
        self.network_ready(host, spec).await?;
        vm.resume().await.map_err(CreateError::Go)?;
        let guest = self.guest_client();
        let identity = Identity { boot_id, ..identity(host, spec, self.template()) };
        tokio::select! {
            restored = guest.restore(identity, RESTORE_DEADLINE) => restored.map_err(CreateError::Introduce)?,
            () = vm.process().ended() => return Err(CreateError::Ended { last_words: vm.last_words() }),
            () = cancel.cancelled() => return Err(CreateError::Deleted),
        }
        tracing::debug!(sandbox = %spec.id, ?loaded, answered = ?begun.elapsed(), "restored");
        self.guest = Some(guest);
        Ok(())
    }
}

/// Puts into a sandbox's directory all that it shares with others, and an overlay of its own. Says what is under that.
fn take_files(frozen: &Frozen, directory: &Path) -> Result<Vec<Layer>, CreateError> {
    let memory = directory.join(FROZEN_MEMORY_FILE);
    link(&frozen.memory(), &memory).map_err(file_error("link", &memory))?;
    take_disk(frozen, directory)
}

/// The same of its disk.
fn take_disk(frozen: &Frozen, directory: &Path) -> Result<Vec<Layer>, CreateError> {
    let layers = frozen.link_layers(directory)?;
    let overlay = directory.join(OVERLAY_FILE);
    copy_for_writing(&frozen.empty_overlay(), &overlay).map_err(file_error("make", &overlay))?;
    Ok(layers)
}

fn copy_for_writing(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600))
}

/// A random UUID (version 4) as text.
fn random_uuid() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::random_uuid;

    #[test]
    fn a_boot_id_looks_like_a_kernel_s() {
        let (one, two) = (random_uuid(), random_uuid());
        assert_ne!(one, two);
        let lengths: Vec<_> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(one.as_bytes()[14] == b'4' && one.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
    }
}
