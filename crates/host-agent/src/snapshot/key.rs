//! Which baked image a sandbox can come from: everything that is frozen in one and cannot be changed afterwards.

use std::fmt;

use model::Shape;
use vmm::Platform;

use crate::template::{Digest, Template};

/// Names a baked image. Equal for sandboxes that can come from the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BakeKey(String);

impl BakeKey {
    /// For sandboxes of this template and shape on this platform. The counter's rate, which is measured and differs a
    /// little each time, is compared when the image is opened.
    pub fn new(template: &Template, shape: &Shape, platform: &Platform) -> Self {
        let manifest = &template.manifest;
        let frozen = [
            platform.bundle.as_str(),
            &platform.machine,
            &platform.cpu,
            &platform.accelerator,
            &platform.host_cpu,
            template.kernel.digest().as_str(),
            &template.guest_agent(),
        ];
        let platform = Digest::of(frozen.join("\n").as_bytes());
        let shape = format!("{}x{}x{}", shape.vcpus, shape.memory, shape.disk);
        Self(format!("{}-{}-{shape}-{}", manifest.name, manifest.build, platform.short()))
    }

    /// A key for a test, which has no template.
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The name of its directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BakeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
