//! The vocabulary of Sandpiper as types: ids, names, shapes, sandbox states and what is legal in each.
//!
//! Pure: no I/O, no clock, no async. Knows nothing of REST, RPC, SQL or virtual machines; those convert to these
//! types at their edges.

mod generation;
mod id;
mod lifetime;
mod metadata;
mod network;
mod plan;
mod retention;
mod role;
mod shape;
mod snapshot;
mod snapshot_plan;
mod start;
mod status;
mod tag;
mod template;

pub use generation::Generation;
pub use id::{HostId, InstanceId, InvalidId, OwnerId, SandboxId, SnapshotId, is_dns_label};
pub use lifetime::{AutoResume, Extent, Lifetime, OnExpiry, UnknownOnExpiry};
pub use metadata::{InvalidMetadata, Metadata};
pub use network::{
    Destination, DomainPattern, EgressProxy, HeaderWords, InternetAccess, InvalidDestination, InvalidHeaders,
    InvalidPolicy, InvalidProxy, Login, NetworkPolicy, PolicyWords, ProxyAddress, ProxyHost, ProxyTls, ProxyWords,
    Range, RequestHeaders, Secret, Untold, is_token,
};
pub use plan::{Desired, Observed, OnHost, Patience, Step, Work, is_expiry, plan};
pub use retention::{Kept, Retention, Surplus};
pub use role::Role;
pub use shape::{DiskMb, InvalidShape, MemoryMb, Shape, ShapeRequest, VcpuCount};
pub use snapshot::{InvalidSnapshotName, SnapshotKind, SnapshotName, SnapshotRef, SnapshotStatus, UnknownSnapshotWord};
pub use snapshot_plan::{HeldSnapshot, RecordedSnapshot, SnapshotStep, plan_snapshots};
pub use start::{StartMode, UnknownStartMode};
pub use status::{Event, IllegalTransition, Status, UnknownStatus, transition};
pub use tag::{GivenTag, InvalidTag, Tag};
pub use template::{InvalidTemplateName, TemplateName};
