//! The vocabulary of Sandpiper as types: ids, names, shapes, sandbox states and what is legal in each.
//!
//! Pure: no I/O, no clock, no async. Knows nothing of REST, RPC, SQL or virtual machines; those convert to these
//! types at their edges.

mod id;
mod lifetime;
mod metadata;
mod plan;
mod role;
mod shape;
mod status;
mod template;

pub use id::{HostId, InstanceId, InvalidId, OwnerId, SandboxId, SnapshotId};
pub use lifetime::{Lifetime, OnExpiry};
pub use metadata::{InvalidMetadata, Metadata};
pub use plan::{Desired, Observed, OnHost, Patience, Step, plan};
pub use role::Role;
pub use shape::{DiskMb, InvalidShape, MemoryMb, Shape, ShapeRequest, VcpuCount};
pub use status::{Event, IllegalTransition, Status, UnknownStatus, transition};
pub use template::{InvalidTemplateName, TemplateName};
