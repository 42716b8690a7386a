//! The control plane: the REST API, the records of sandboxes, and the calls to the host agent that runs them.
//!
//! `api` converts requests, `proxy` passes traffic for ports of guests on, `lifecycle` changes states, `store` keeps records, `host` calls the host agent,
//! `reconcile` puts records right, `retention` says what is not kept any longer. It reaches hosts by RPC only and guests never: their bytes pass through the host
//! agent. It does not choose addresses, read flags or handle signals: the caller binds and decides when to end.

mod api;
mod config;
mod domain;
mod host;
mod https_ports;
mod keys;
mod lifecycle;
mod listen;
mod metrics;
mod proxy;
mod reconcile;
mod request_host;
mod retention;
mod server;
mod simulation;
mod starting;
mod store;
mod store_url;
mod tls;
mod token_key;

pub use api::openapi_yaml;
pub use config::{ClientPatience, Config, GuestPatience, HostAgentAddress, Limits};
pub use domain::{Domain, DomainName, InvalidDomain};
pub use host::{InProcess, in_process};
pub use keys::Keys;
pub use listen::{IdentityError, ServerIdentity};
pub use retention::RetentionPolicy;
pub use server::{ControlPlane, Https, RunError};
pub use simulation::{
    Failure, Passes, Recorded, Records, SimulatedControlPlane, SimulatedHost, Simulation, SimulationError, Wish,
};
pub use starting::Starting;
pub use store::{ApiKey, OpenError, Passage, StoreError, Way};
pub use store_url::{InvalidStoreUrl, PostgresUrl, StoreUrl};
pub use tls::{Tls, TlsError};
pub use token_key::{TokenKey, TokenKeyError};
