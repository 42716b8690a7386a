//! What an earlier run left on this host is removed at start: monitors, networks and directories of sandboxes that
//! nobody owns any more. Touches only what carries this installation's id or lies in its data directory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use vmm::{ProcessIdentity, VmmProcess};

use super::parts::IDENTITY_FILE;
use crate::host::Host;

/// What could not be swept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A sandbox's directory.
    #[error("remove what is left in {}", path.display())]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Networks.
    #[error("remove networks that are left")]
    Network(#[from] crate::net::RemoveError),
}

/// Removes everything. To be called before the first sandbox is made.
pub async fn sweep(host: &Host) -> Result<(), SweepError> {
    let sandboxes = host.sandboxes_dir();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SweepError::Directory { path, source }
    };
    for entry in fs::read_dir(&sandboxes).map_err(failed(&sandboxes))? {
        let directory = entry.map_err(failed(&sandboxes))?.path();
        if let Some(process) = monitor_of(&directory) {
            tracing::info!(directory = %directory.display(), "ending a virtual machine that an earlier run left");
            process.kill().await;
        }
        fs::remove_dir_all(&directory).map_err(failed(&directory))?;
    }
    Ok(host.network.sweep(&HashSet::new()).await?)
}

/// The monitor whose identity the directory holds, if it still runs.
fn monitor_of(directory: &Path) -> Option<VmmProcess> {
    let text = fs::read(directory.join(IDENTITY_FILE)).ok()?;
    let identity: ProcessIdentity = serde_json::from_slice(&text).ok()?;
    VmmProcess::open(identity).ok()
}
