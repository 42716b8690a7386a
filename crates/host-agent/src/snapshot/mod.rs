//! Captured virtual machines on disk: device state, memory, overlay, and a manifest that says on what they can go on.
//!
//! ```text
//! bakes/<template>-<build>-<shape>-<platform>/   what new sandboxes are restored from; immutable
//!     manifest.json  state  memory  overlay.qcow2  empty.qcow2
//! snapshots/<id>/                                what was captured of a sandbox; immutable
//!     manifest.json  state  memory  overlay.qcow2  empty.qcow2  layer0.qcow2 …
//! sandboxes/<id>/paused/                         a paused sandbox; its memory and overlay are beside this directory
//!     manifest.json  state
//! ```
//!
//! Such a directory is complete or absent, also after a power cut: staged, made durable, renamed. What is in it is
//! checked before a monitor is started. Knows nothing of sandboxes' states, of guests or of how a capture is made.

mod bakes;
mod content;
mod error;
mod frozen;
mod key;
mod manifest;
mod snapshots;
mod stage;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use manifest::tests as manifest_tests;

pub use bakes::{BakeError, Bakes};
pub use error::SnapshotError;
pub use frozen::{Frozen, Layer, layer_name, link, seal};
pub use key::BakeKey;
pub use manifest::{GUEST_PROTOCOL, Manifest, Origin};
pub use snapshots::{Reservation, Snapshots};
pub use stage::Stage;

/// Devices and vCPUs.
pub const STATE: &str = "state";
/// The guest's memory.
pub const MEMORY: &str = "memory";
/// What the guest wrote to its disk.
pub const OVERLAY: &str = "overlay.qcow2";
/// An overlay without content, as large as the disk.
pub const EMPTY_OVERLAY: &str = "empty.qcow2";
