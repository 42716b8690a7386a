//! The guest kernel: taken from Debian's package without installing it, with the few modules that a guest needs, and
//! stored under its digest. Templates of one suite share it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::bootstrap::{Depth, Plan, bootstrap};
use super::digest::{Digest, Hasher};
use super::durable;
use super::error::{BuildError, FileError};
use super::layout::Layout;
use super::progress::{Progress, Step};
use super::recipe::Suite;
use super::sources::Sources;
use super::tool::{Runner, Tool};

const PACKAGE: &str = "linux-image-cloud-amd64";
/// Devices by ACPI, disk, network, randomness, console and overlays; what these depend on comes by itself.
const MODULES: [&str; 6] = ["virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console", "overlay"];
const MANIFEST: &str = "kernel.json";

/// A kernel on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    directory: PathBuf,
    manifest: KernelManifest,
}

/// What is known of a stored kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KernelManifest {
    digest: Digest,
    version: String,
}

impl Kernel {
    /// Reads the kernel in `directory`.
    pub(super) fn open(directory: PathBuf) -> Result<Self, FileError> {
        let manifest = durable::read_json(&directory.join(MANIFEST))?;
        let kernel = Self { directory, manifest };
        fs::metadata(kernel.image()).map_err(FileError::at("reading", kernel.image()))?;
        Ok(kernel)
    }

    /// What the VMM boots.
    pub fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    /// What its modules say they are for, like `6.1.0-37-cloud-amd64`.
    pub fn version(&self) -> &str {
        &self.manifest.version
    }

    /// The digest of image and modules.
    pub fn digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its modules, in the order in which they must be loaded.
    pub(super) fn modules(&self) -> Result<Vec<PathBuf>, FileError> {
        durable::entries(&self.directory.join("modules"))
    }
}

/// Takes the suite's kernel from its package into the store, by way of `work`, a directory of the build's own.
pub(super) async fn fetch(
    runner: &Runner<'_>,
    suite: Suite,
    sources: &Sources,
    layout: &Layout,
    work: &Path,
    progress: &dyn Progress,
) -> Result<Kernel, BuildError> {
    let tree = work.join("kernel");
    let packages = [PACKAGE.to_owned()];
    let plan = Plan { suite, depth: Depth::Unpacked, packages: &packages, at_the_end: Vec::new() };
    bootstrap(runner, plan, sources, &layout.package_cache(), &tree, progress).await?;
    let version = version(&tree)?;
    let arrange = |command: &mut Command| {
        command.arg("-b").arg(&tree).arg(&version);
    };
    runner.run(Tool::Depmod, arrange, |_| {}).await?;
    let staged = work.join("boot");
    let digest = select(&tree, &version, &staged)?;
    durable::remove_directory(&tree)?;
    durable::write_json(&staged.join(MANIFEST), &KernelManifest { digest: digest.clone(), version })?;
    let home = layout.kernel(&digest);
    durable::publish(&staged, &home)?;
    durable::point(&layout.kernel_of(suite), digest.short())?;
    Ok(Kernel::open(home)?)
}

fn version(tree: &Path) -> Result<String, BuildError> {
    let found = durable::entries(&tree.join("lib/modules"))?;
    match found.as_slice() {
        [only] => Ok(only.file_name().unwrap_or_default().to_string_lossy().into_owned()),
        _ => Err(unexpected(format!("{PACKAGE} holds {} kernels", found.len()))),
    }
}

/// Copies image and modules to `staged`, which becomes the kernel's directory.
fn select(tree: &Path, version: &str, staged: &Path) -> Result<Digest, BuildError> {
    let modules = tree.join("lib/modules").join(version);
    let read = |path: PathBuf| fs::read(&path).map_err(FileError::at("reading", path));
    let dependencies = read(modules.join("modules.dep"))?;
    let built_in = read(modules.join("modules.builtin"))?;
    let (dependencies, built_in) = (String::from_utf8_lossy(&dependencies), String::from_utf8_lossy(&built_in));
    let order = load_order(&dependencies, &built_in, &MODULES)
        .map_err(|module| unexpected(format!("{PACKAGE} has no module {module}")))?;
    let mut files = vec![("vmlinuz".to_owned(), tree.join(format!("boot/vmlinuz-{version}")))];
    files.extend(order.iter().enumerate().map(|(position, path)| {
        let name = path.rsplit('/').next().unwrap_or_default();
        (format!("modules/{position:02}-{name}"), modules.join(path))
    }));
    let mut hasher = Hasher::default();
    fs::create_dir_all(staged.join("modules")).map_err(FileError::at("making", staged))?;
    for (name, source) in files {
        let content = read(source)?;
        hasher.update(format!("{name}\0{}\0", content.len()).as_bytes());
        hasher.update(&content);
        durable::write(&staged.join(&name), &content)?;
    }
    Ok(hasher.finish())
}

/// The paths of the `wanted` modules and of what they depend on, each after what it needs, or the one that is neither
/// a module nor built in. depmod lists a module's dependencies in the reverse of the order in which they load.
fn load_order<'a>(dependencies: &'a str, built_in: &str, wanted: &[&str]) -> Result<Vec<&'a str>, String> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let known: HashMap<String, (&str, &str)> = lines.map(|(path, needs)| (module_name(path), (path, needs))).collect();
    let mut order = Vec::new();
    for module in wanted {
        match known.get(*module) {
            Some((path, needs)) => {
                for path in needs.split_whitespace().rev().chain([*path]) {
                    if !order.contains(&path) {
                        order.push(path);
                    }
                }
            }
            None if built_in.lines().any(|path| module_name(path) == *module) => {}
            None => return Err((*module).to_owned()),
        }
    }
    Ok(order)
}

/// The kernel does not tell `-` from `_` in the names of modules.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn unexpected(reason: String) -> BuildError {
    BuildError::Unexpected { step: Step::Kernel, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_mmio.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko \
kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/hw_random/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let order =
            load_order(DEPENDENCIES, "kernel/fs/ext4/ext4.ko\n", &["virtio_net", "virtio_rng", "virtio_mmio", "ext4"]);
        let names: Vec<String> = order.unwrap().into_iter().map(module_name).collect();
        let expected = ["virtio_ring", "virtio", "failover", "net_failover", "virtio_net", "virtio_rng", "virtio_mmio"];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        assert_eq!(load_order(DEPENDENCIES, "", &["virtio_mmio", "virtio_gpu"]), Err("virtio_gpu".to_owned()));
    }
}
