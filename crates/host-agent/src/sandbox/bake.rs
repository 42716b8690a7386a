//! Sandboxes out of baked images: a hidden one is booted, warmed, frozen and captured once, and every later one of the
//! same template and shape goes on from there, with memory and disk of its own over what they share.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use model::{Lifetime, SandboxId};
use tokio_util::sync::CancellationToken;
use vmm::Vm;

use super::parts::{MEMORY_FILE, OVERLAY_FILE, Parts, file_error, identity};
use super::restore::RESTORE_DEADLINE;
use super::{CreateError, SandboxSpec};
use crate::blocking;
use crate::host::Host;
use crate::snapshot::{
    BakeError, BakeKey, EMPTY_OVERLAY, Frozen, MEMORY, Manifest, OVERLAY, Origin, STATE, SnapshotError, seal,
};
use crate::template::Template;

impl Parts {
    /// Makes the sandbox out of a baked image, which is baked first where there is none. False where that is not
    /// possible: then nothing is in the way of a boot.
    pub(super) async fn restore_from_bake(
        &mut self,
        host: &Arc<Host>,
        spec: &SandboxSpec,
        template: &Template,
        cancel: &CancellationToken,
    ) -> Result<bool, CreateError> {
        let key = BakeKey::new(template, &spec.shape, &host.vmm.platform());
        let bake = match find_or_bake(host, spec, template, &key, cancel).await {
            Ok(bake) => bake,
            Err(BakeError::Cancelled) => return Err(CreateError::Deleted),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(sandbox = %spec.id, error, "no baked image: the sandbox boots instead");
                return Ok(false);
            }
        };
        match self.restore(host, spec, &bake, None, cancel).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                tracing::warn!(
                    sandbox = %spec.id,
                    error = &error as &dyn std::error::Error,
                    "not restored from its baked image: the sandbox boots instead"
                );
                if let Some(vm) = self.vm.take() {
                    vm.kill().await;
                }
                host.bakes.discard(&key);
                Ok(false)
            }
        }
    }

    /// Makes a sandbox for the warm pool out of the image `key`, and runs in it what the next caller will want to run.
    /// False where there is no such image.
    pub(super) async fn restore_for_pool(
        &mut self,
        host: &Host,
        spec: &SandboxSpec,
        template: &Template,
        key: &BakeKey,
        cancel: &CancellationToken,
    ) -> Result<bool, CreateError> {
        let Some(bake) = host.bakes.find(key, &Origin::new(template, spec.shape, host.vmm.platform())) else {
            return Ok(false);
        };
        self.begin(host, spec, SystemTime::now(), template).await?;
        self.restore(host, spec, &bake, None, cancel).await?;
        let guest = self.guest.clone().expect("a sandbox that was restored has a guest");
        let warm_up = async {
            guest.warm_up().await;
            // The claim will say the same.
            guest.restore(identity(host, spec, template), RESTORE_DEADLINE).await.map_err(CreateError::Introduce)
        };
        tokio::select! {
            warm = warm_up => warm.map(|()| true),
            () = cancel.cancelled() => Err(CreateError::Deleted),
        }
    }
}

async fn find_or_bake(
    host: &Arc<Host>,
    spec: &SandboxSpec,
    template: &Template,
    key: &BakeKey,
    cancel: &CancellationToken,
) -> Result<Frozen, BakeError> {
    let origin = Origin::new(template, spec.shape, host.vmm.platform());
    let hidden = SandboxSpec { id: SandboxId::random(), lifetime: Lifetime::Never, ..spec.clone() };
    let (making_host, making_template) = (host.clone(), template.clone());
    let make = move |stage: PathBuf, cancel: CancellationToken| async move {
        bake(&making_host, &hidden, &making_template, &stage, &cancel).await
    };
    host.bakes.get(key, &origin, make, cancel).await
}

/// Boots a hidden sandbox and leaves its capture in `stage`. Nothing else of it is left, whatever happens.
async fn bake(
    host: &Host,
    spec: &SandboxSpec,
    template: &Template,
    stage: &Path,
    cancel: &CancellationToken,
) -> Result<(), String> {
    let begun = Instant::now();
    let mut parts = Parts::default();
    let baked = async {
        parts.build_for_bake(host, spec, template, cancel).await?;
        let booted = begun.elapsed();
        tokio::select! {
            captured = parts.capture_for_bake(host, stage) => captured?,
            () = cancel.cancelled() => return Err(CreateError::Deleted),
        }
        Ok(booted)
    };
    let baked = baked.await;
    parts.vanish().await;
    match baked {
        Ok(booted) => {
            let took = begun.elapsed();
            tracing::info!(template = %spec.template, shape = ?spec.shape, ?booted, ?took, "an image was baked");
            Ok(())
        }
        Err(error) => {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            Err(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
        }
    }
}

impl Parts {
    async fn capture_for_bake(&mut self, host: &Host, stage: &Path) -> Result<(), CreateError> {
        let guest = self.guest.clone().expect("a sandbox that was made has a guest");
        let vm = self.vm.clone().expect("a sandbox that was made has a virtual machine");
        guest.settle().await.map_err(CreateError::Introduce)?;
        guest.freeze().await.map_err(CreateError::Introduce)?;
        vm.pause().await.map_err(CreateError::Capture)?;
        save_state(&*vm, &stage.join(STATE)).await?;
        vm.kill().await;
        host.vmm.make_overlay(&stage.join(EMPTY_OVERLAY), self.disk()).await?;
        let (directory, stage) = (self.directory().to_owned(), stage.to_owned());
        let origin = self.origin();
        let freeze = blocking::run(move || freeze_files(&directory, &stage, origin));
        freeze.await.map_err(|error| file_error("freeze", Path::new("files"))(error.into()))?
    }
}

/// Writes what is not memory or disk to a new file, durably.
pub(super) async fn save_state(vm: &dyn Vm, path: &Path) -> Result<(), CreateError> {
    let file = File::options().write(true).create(true).truncate(true).open(path).map_err(file_error("make", path))?;
    vm.save_state(file.into()).await.map_err(CreateError::Capture)
}

/// Moves memory and overlay of a virtual machine that has ended to where they are shared from, for reading only.
fn freeze_files(directory: &Path, stage: &Path, origin: Origin) -> Result<(), CreateError> {
    let memory = stage.join(MEMORY);
    fs::rename(directory.join(MEMORY_FILE), &memory).map_err(file_error("move to", &memory))?;
    let overlay = stage.join(OVERLAY);
    fs::rename(directory.join(OVERLAY_FILE), &overlay).map_err(file_error("move to", &overlay))?;
    let compact = File::options().read(true).write(true).open(&memory).and_then(|file| {
        vmm::memory::punch_zeros(&file)?;
        vmm::memory::release(&file)
    });
    compact.map_err(file_error("compact", &memory))?;
    for path in [&memory, &overlay, &stage.join(EMPTY_OVERLAY)] {
        seal(path).map_err(file_error("freeze", path))?;
    }
    write_manifest(stage, origin)?;
    Ok(())
}

/// The last file of an image.
fn write_manifest(stage: &Path, origin: Origin) -> Result<(), SnapshotError> {
    let mut manifest = Manifest::new(origin);
    manifest.digest(stage, &[STATE, MEMORY, OVERLAY, EMPTY_OVERLAY])?;
    manifest.write(stage)
}
