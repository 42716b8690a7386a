//! What can be made again and nothing uses: baked images that no sandbox has links to, and template builds that are
//! neither current nor under anything. Copies of the monitor are looked at when a host agent starts: only then it is
//! certain which ones no process runs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{DiskKind, DiskUse, uses};
use crate::host::Host;
use crate::snapshot::MEMORY;
use crate::template::{BuildId, TemplateError};

/// Why something could not be removed. What had been removed before is gone.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// It could not be found out what there is.
    #[error("look at what the data directory holds")]
    Look(#[source] io::Error),
    /// A baked image.
    #[error("remove the baked image {bake}")]
    Bake {
        /// Which.
        bake: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Template builds.
    #[error("remove old template builds")]
    Templates(#[from] TemplateError),
}

/// All that there is, and of each whether [`prune`] would remove it now. Reads many directories: not for the runtime's
/// threads.
pub fn look(host: &Host) -> Result<Vec<(DiskUse, bool)>, PruneError> {
    let builds = host.builds_in_use();
    let all = uses(&host.data_dir).map_err(PruneError::Look)?;
    let judge = |one| {
        let is_useless = is_useless(&one, &builds);
        (one, is_useless)
    };
    Ok(all.into_iter().map(judge).collect())
}

/// What [`prune`] would remove now. Reads many directories: not for the runtime's threads.
pub fn plan(host: &Host) -> Result<Vec<DiskUse>, PruneError> {
    Ok(look(host)?.into_iter().filter(|(_, is_useless)| *is_useless).map(|(one, _)| one).collect())
}

/// Removes it, and says what is gone. Reads many directories: not for the runtime's threads.
pub fn prune(host: &Host) -> Result<Vec<DiskUse>, PruneError> {
    let planned = plan(host)?;
    for bake in planned.iter().filter(|one| one.kind == DiskKind::Bake) {
        // Whoever is about to use it finds it gone and makes it anew.
        let removed = fs::remove_dir_all(&bake.path);
        removed.map_err(|source| PruneError::Bake { bake: bake.id.clone(), source })?;
    }
    host.templates.prune(&host.builds_in_use())?;
    // A template that is being built keeps what it has for now.
    Ok(planned.into_iter().filter(|one| !one.path.exists()).collect())
}

fn is_useless(one: &DiskUse, builds: &HashSet<BuildId>) -> bool {
    match one.kind {
        DiskKind::Bake => !is_linked(&one.path.join(MEMORY)),
        DiskKind::Template => {
            let name = one.path.file_name().and_then(|name| name.to_str());
            let build = name.and_then(|name| name.parse::<BuildId>().ok());
            build.is_some_and(|build| !builds.contains(&build)) && !is_current(&one.path)
        }
        DiskKind::Monitor | DiskKind::Kernel | DiskKind::Snapshot | DiskKind::Sandbox | DiskKind::Cache => false,
    }
}

/// Whether a file has another name, which is how sandboxes use images. One that cannot be looked at may have.
fn is_linked(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |metadata| metadata.nlink() > 1)
}

fn is_current(build: &Path) -> bool {
    let link = build.parent().map(|template| template.join("current"));
    link.and_then(|link| fs::read_link(link).ok()).is_some_and(|target| target.file_name() == build.file_name())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn one(kind: DiskKind, path: PathBuf) -> DiskUse {
        DiskUse { kind, id: "x".to_owned(), path, bytes: 1 }
    }

    #[test]
    fn an_image_is_useless_as_long_as_no_sandbox_has_a_link_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let bake = one(DiskKind::Bake, directory.path().to_owned());
        assert!(!is_useless(&bake, &HashSet::new()), "half made");
        fs::write(directory.path().join(MEMORY), "x").unwrap();
        assert!(is_useless(&bake, &HashSet::new()));
        fs::hard_link(directory.path().join(MEMORY), directory.path().join("used")).unwrap();
        assert!(!is_useless(&bake, &HashSet::new()));
    }

    #[test]
    fn a_build_is_useless_unless_it_is_current_or_under_something() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0123456789abcdef");
        fs::create_dir(&path).unwrap();
        let build = one(DiskKind::Template, path);
        assert!(is_useless(&build, &HashSet::new()));
        assert!(!is_useless(&build, &HashSet::from(["0123456789abcdef".parse().unwrap()])));
        symlink("0123456789abcdef", directory.path().join("current")).unwrap();
        assert!(!is_useless(&build, &HashSet::new()));
    }
}
