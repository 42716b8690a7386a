//! Templates: what sandboxes are made of. A recipe (data) becomes a root disk image, a kernel and an initramfs, stored
//! under the data directory:
//!
//! ```text
//! templates/<name>/<build>/rootfs.ext4     the root disk
//! templates/<name>/<build>/template.json   its manifest, naming the kernel
//! templates/<name>/current -> <build>      what new sandboxes get
//! boot/<digest>/vmlinuz, modules/*.ko      a kernel, shared by the templates of a suite
//! boot/<digest>/initramfs-<agent>.cpio     what it boots into, one for each guest agent
//! recipes/<name>.toml                      an operator's own recipes
//! cache/apt/*.deb                          packages, to be had again without a download
//! ```
//!
//! A build is complete or absent, also after a power cut, and replaces its predecessor by renaming one link. Knows
//! nothing of sandboxes: who uses which build is told to [`TemplateStore::prune`].

mod announced;
mod bootstrap;
mod build;
mod cpio;
mod digest;
mod durable;
mod error;
mod image;
mod initramfs;
mod kernel;
mod layout;
mod manifest;
mod progress;
mod recipe;
mod rootfs;
mod share;
mod sources;
mod staging;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tool;

pub use build::Force;
pub use digest::Digest;
pub(crate) use digest::Hasher;
pub use error::{BuildError, FileError, RecipeError, TemplateError};
pub use image::ImageFacts;
pub use kernel::Kernel;
pub use manifest::{BuildId, InvalidBuildId, Manifest};
pub use progress::{Progress, Silent, Step, Traced};
pub use recipe::{Defaults, Privilege, Recipe, Start, Suite, User};
pub use store::{Listed, Template, TemplateStore};
pub use tool::{Tool, ToolPath};
