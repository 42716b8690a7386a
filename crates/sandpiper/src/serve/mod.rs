//! The roles that stay: control plane, host agent, and both in one process. Puts the parts together in a fixed order
//! and takes them down in the reverse; knows nothing of what they do.

mod args;
mod control_plane;
mod database;
mod domain;
mod host_agent;
mod listen;
mod reconcile;
mod service;
mod tls;
mod token_key;
mod up;

pub use args::{ApiArgs, ControlPlaneArgs, DEFAULT_DATA_DIR, DEFAULT_LISTEN, HostAgentArgs, HostArgs, OnExit, UpArgs};
pub use control_plane::control_plane;
pub use database::DatabaseArgs;
pub use domain::DomainArgs;
pub use host_agent::host_agent;
pub use reconcile::ReconcileArgs;
pub use service::{ConfigArgs, DrainArgs, LogArgs, ServiceArgs};
pub use tls::{HostListen, TlsArgs};
pub use token_key::TokenKeyArgs;
pub use up::up;
