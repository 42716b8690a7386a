//! What every subcommand has in common towards the person or program in front of it: output, failures, signals, and how
//! the build of a template is shown. Knows none of the subcommands.

pub mod failure;
mod log;
pub mod output;
pub mod progress;
pub mod signals;

pub use failure::{BadConfig, report};
pub use log::{LogFormat, start_log, valid_filter};
pub use signals::{Ended, Signals};
