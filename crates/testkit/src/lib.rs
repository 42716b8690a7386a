//! What tests share: a server on a free port with a data directory of its own, waiting for conditions, a
//! private PostgreSQL, and an inventory of what an installation has on the machine. Only for tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod inventory;
mod postgres;
mod postgres_tls;
mod server;
mod wait;

pub use inventory::Inventory;
pub use postgres::Postgres;
pub use postgres_tls::TlsPostgres;
pub use server::{Answer, Server, ServerOptions, end_monitors, share_templates};
pub use wait::wait_for;
