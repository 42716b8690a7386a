//! Templates without a build, for tests.

use std::fs;
use std::path::Path;

use model::{DiskMb, TemplateName};

use super::digest::Digest;
use super::durable;
use super::image::ImageFacts;
use super::kernel::Kernel;
use super::layout::{IMAGE, Layout, MANIFEST};
use super::manifest::{BuildId, FORMAT, Manifest};

/// A kernel with two modules in `directory`.
pub(super) fn stored_kernel(directory: &Path) -> Kernel {
    let modules = directory.join("modules");
    fs::create_dir_all(&modules).unwrap();
    for file in ["00-virtio.ko", "01-virtio_blk.ko"] {
        fs::write(modules.join(file), file).unwrap();
    }
    fs::write(directory.join("vmlinuz"), "kernel").unwrap();
    let manifest = serde_json::json!({ "digest": kernel_digest(), "version": "6.1.0-0-test" });
    fs::write(directory.join("kernel.json"), manifest.to_string()).unwrap();
    Kernel::open(directory.to_owned()).unwrap()
}

/// What looks like a finished build, made current.
pub(super) fn stored_build(data_dir: &Path, name: &TemplateName) -> Manifest {
    let layout = Layout::new(data_dir);
    stored_kernel(&layout.kernel(&kernel_digest()));
    let build = BuildId::random();
    let directory = layout.build(name, &build);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(IMAGE), superblock()).unwrap();
    let manifest = Manifest {
        format: FORMAT,
        name: name.clone(),
        build: build.clone(),
        description: "made by a test".into(),
        recipe_digest: Digest::of(b"recipe"),
        created_ms: 0,
        image: ImageFacts { digest: Digest::of(b"image"), bytes: 2048, allocated_bytes: 2048 },
        disk_mb: DiskMb::DEFAULT,
        kernel_digest: kernel_digest(),
        defaults: Default::default(),
        start: None,
    };
    durable::write_json(&directory.join(MANIFEST), &manifest).unwrap();
    durable::point(&layout.current(name), build.as_str()).unwrap();
    manifest
}

fn kernel_digest() -> Digest {
    Digest::of(b"kernel")
}

/// The first bytes of an ext4 file system of two blocks of 1024 bytes.
fn superblock() -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    bytes[1024 + 4] = 2;
    bytes[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    bytes
}
