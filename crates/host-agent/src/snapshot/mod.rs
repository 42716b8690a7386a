//! Captured virtual machines on disk: device state, memory, overlay, and a manifest that says on what they can go on.
//!
//! ```text
//! bakes/<template>-<build>-<shape>-<platform>/   what new sandboxes are restored from; immutable
//!     manifest.json  state  memory  overlay.qcow2  empty.qcow2
//! sandboxes/<id>/paused/                         a paused sandbox; its memory and overlay are beside this directory
//!     manifest.json  state
//! ```
//!
//! Such a directory is complete or absent, also after a power cut: staged, made durable, renamed. What is in it is
//! checked before a monitor is started. Knows nothing of sandboxes' states, of guests or of how a capture is made.

mod bakes;
mod error;
mod key;
mod manifest;
mod stage;
#[cfg(test)]
mod tests;

pub use bakes::{Bake, BakeError, Bakes};
pub use error::SnapshotError;
pub use key::BakeKey;
pub use manifest::{GUEST_PROTOCOL, Manifest, Origin};
pub use stage::Stage;

/// Devices and vCPUs.
pub const STATE: &str = "state";
/// The guest's memory.
pub const MEMORY: &str = "memory";
/// What the guest wrote to its disk.
pub const OVERLAY: &str = "overlay.qcow2";
/// An overlay without content, as large as the disk.
pub const EMPTY_OVERLAY: &str = "empty.qcow2";
