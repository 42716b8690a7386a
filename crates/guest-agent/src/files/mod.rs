//! Files and directories of the sandbox, seen and changed with the rights of a user. Blocks; knows nothing of HTTP or
//! RPC.

mod content;
mod entry;
mod error;
pub mod metadata;
pub mod path;
mod rights;
mod tree;
mod watch;

pub use self::content::{Readable, create, open};
pub use self::entry::{Entry, Kind};
pub use self::error::FileError;
pub use self::metadata::Metadata;
pub use self::tree::{list, make_directory, remove, rename, stat};
pub use self::watch::{Change, Depth, Entries, Happened, Network, Watch, Wish};
