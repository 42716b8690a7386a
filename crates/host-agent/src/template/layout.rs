//! Where things are in the data directory. Only names: nothing here touches a disk.

use std::path::{Path, PathBuf};

use model::TemplateName;

use super::digest::Digest;
use super::manifest::BuildId;
use super::recipe::Suite;

pub(super) const IMAGE: &str = "rootfs.ext4";
pub(super) const MANIFEST: &str = "template.json";
/// No template's name begins with a dot.
pub(super) const STAGING_PREFIX: &str = ".staging-";

/// The paths below one data directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    /// All builds of one template.
    pub fn template(&self, name: &TemplateName) -> PathBuf {
        self.templates().join(name.as_str())
    }

    pub fn build(&self, name: &TemplateName, build: &BuildId) -> PathBuf {
        self.template(name).join(build.as_str())
    }

    /// A link to the build that new sandboxes get.
    pub fn current(&self, name: &TemplateName) -> PathBuf {
        self.template(name).join("current")
    }

    pub fn kernels(&self) -> PathBuf {
        self.root.join("boot")
    }

    pub fn kernel(&self, digest: &Digest) -> PathBuf {
        self.kernels().join(digest.short())
    }

    /// A link to the kernel that new builds of a suite get.
    pub fn kernel_of(&self, suite: Suite) -> PathBuf {
        self.kernels().join(format!(".{}", suite.codename()))
    }

    pub fn package_cache(&self) -> PathBuf {
        self.root.join("cache/apt")
    }

    /// What an operator adds to the built-in recipes.
    pub fn recipes(&self) -> PathBuf {
        self.root.join("recipes")
    }

    pub fn locks(&self) -> PathBuf {
        self.templates().join(".locks")
    }
}
