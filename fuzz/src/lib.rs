//! What several targets stand on: guests that say whatever the fuzzer makes up, and a control plane whose host does.

mod guest;
mod server;

pub use guest::{command, guest_that_says, wait};
pub use server::{Server, server};
