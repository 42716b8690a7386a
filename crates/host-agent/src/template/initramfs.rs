//! The initial root that a guest boots into: the guest agent as `/init` and the kernel's modules. It is stored beside
//! its kernel under the agent's digest, so that a new binary boots its own agent without a rebuild of templates.

use std::fs;
use std::path::PathBuf;

use super::cpio::Archive;
use super::digest::{Digest, random_hex};
use super::durable;
use super::error::FileError;
use super::kernel::Kernel;

const PREFIX: &str = "initramfs-";

/// The guest agent that this binary carries.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    bytes: &'static [u8],
    digest: Digest,
}

impl Agent {
    pub(super) fn new(bytes: &'static [u8]) -> Self {
        Self { bytes, digest: Digest::of(bytes) }
    }

    fn file_name(&self) -> String {
        format!("{PREFIX}{}.cpio", self.digest.short())
    }
}

/// The initramfs of kernel and agent; makes it where it is missing.
pub(super) fn ensure(kernel: &Kernel, agent: &Agent) -> Result<PathBuf, FileError> {
    let path = kernel.directory().join(agent.file_name());
    if !path.exists() {
        let staged = kernel.directory().join(format!(".{PREFIX}{}", random_hex()));
        durable::write(&staged, &archive(kernel, agent.bytes)?)?;
        durable::rename(&staged, &path)?;
    }
    Ok(path)
}

/// Removes what other agents booted from, and what a killed process left half-written.
pub(super) fn remove_others(kernel: &Kernel, agent: &Agent) -> Result<(), FileError> {
    for path in durable::entries(kernel.directory())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.trim_start_matches('.').starts_with(PREFIX) && name != agent.file_name() {
            fs::remove_file(&path).map_err(FileError::at("removing", &path))?;
        }
    }
    Ok(())
}

fn archive(kernel: &Kernel, agent: &[u8]) -> Result<Vec<u8>, FileError> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "newroot", "modules"] {
        archive.directory(directory, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("init", 0o755, agent);
    for module in kernel.modules()? {
        let content = fs::read(&module).map_err(FileError::at("reading", &module))?;
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &content);
    }
    Ok(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::super::cpio::read::entries;
    use super::super::testing::stored_kernel;
    use super::*;

    #[test]
    fn it_holds_the_agent_as_init_and_the_modules_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = stored_kernel(directory.path());
        let path = ensure(&kernel, &Agent::new(b"agent")).unwrap();
        let found = entries(&fs::read(path).unwrap());
        let init = found.iter().find(|entry| entry.path == "init").unwrap();
        assert_eq!((init.mode, init.content.as_slice()), (0o100_755, &b"agent"[..]));
        let names: Vec<&str> = found.iter().map(|entry| entry.path.as_str()).collect();
        assert!(names.ends_with(&["modules/00-virtio.ko", "modules/01-virtio_blk.ko"]), "{names:?}");
        for directory in ["dev", "proc", "sys", "newroot"] {
            assert!(names.contains(&directory));
        }
    }

    #[test]
    fn another_agent_gets_its_own_and_only_the_current_one_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = stored_kernel(directory.path());
        let (old, new) = (Agent::new(b"old"), Agent::new(b"new"));
        let (old_path, new_path) = (ensure(&kernel, &old).unwrap(), ensure(&kernel, &new).unwrap());
        assert_ne!(old_path, new_path);
        remove_others(&kernel, &new).unwrap();
        assert!(!old_path.exists() && new_path.exists() && kernel.image().exists());
    }
}
