//! Overlays, made by `qemu-img`.

use std::path::Path;
use std::time::Duration;

use model::DiskMb;

use crate::OverlayError;

/// How long `qemu-img` may take for a file of a few hundred kilobytes.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) async fn make(path: &Path, disk: DiskMb) -> Result<(), OverlayError> {
    let output = tokio::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off,extended_l2=off"])
        .arg(path)
        .arg(format!("{disk}M"))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(DEADLINE, output).await;
    let output = output.map_err(|_| OverlayError("qemu-img did not end in time".to_owned()))?;
    let output = output.map_err(|error| OverlayError(format!("qemu-img does not start: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(OverlayError(String::from_utf8_lossy(&output.stderr).trim().chars().take(400).collect()))
}
