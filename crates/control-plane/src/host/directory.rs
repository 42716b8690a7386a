//! Directories of guests, and whether a guest answers at all.

use std::time::Duration;

use bytes::Bytes;
use connectrpc::ErrorCode;
use connectrpc::client::{CallOptions, ClientConfig, ServiceTransport, full_body};
use http::{Method, Request};
use model::SandboxId;
use proto::filesystem as pb;

use super::files::{accept, in_time};
use super::process::from_guest;
use super::{HostAgent, HostError, StreamClient};

/// A list of some ten thousand entries.
const MAX_MESSAGE: usize = 16 << 20;

/// A large directory on a busy host takes its time.
const ANSWER: Duration = Duration::from_secs(60);

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name there.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: i64,
    /// Permission bits.
    pub mode: u32,
    /// The same as text, such as `-rw-r--r--`.
    pub permissions: String,
    /// Whose it is.
    pub owner: String,
    /// The group whose it is.
    pub group: String,
    /// When it was last changed, in seconds since 1970.
    pub modified_at: i64,
    /// Where a link leads.
    pub symlink_target: Option<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file, or something that is read like one.
    File,
    /// A directory.
    Directory,
    /// A link, wherever it leads.
    Symlink,
}

type Client = pb::FilesystemClient<ServiceTransport<StreamClient>>;

fn options() -> CallOptions {
    CallOptions::default().with_timeout(ANSWER)
}

impl HostAgent {
    fn filesystem(&self, id: &SandboxId) -> Result<Client, HostError> {
        let config = ClientConfig::new(self.guest_uri(id, "/")?).with_default_max_message_size(MAX_MESSAGE);
        Ok(Client::new(self.stream_transport(), config))
    }

    /// What is in a directory, and below it down to `depth`.
    pub async fn list_directory(&self, id: &SandboxId, path: &str, depth: u32) -> Result<Vec<Entry>, HostError> {
        let request = pb::ListDirRequest { path: path.to_owned(), depth, ..Default::default() };
        let reply = self.filesystem(id)?.list_dir_with_options(request, options()).await.map_err(from_guest)?;
        Ok(reply.into_owned().entries.into_iter().map(entry).collect())
    }

    /// Makes a directory and those above it.
    pub async fn make_directory(&self, id: &SandboxId, path: &str) -> Result<Entry, HostError> {
        let request = pb::MakeDirRequest { path: path.to_owned(), ..Default::default() };
        let reply = self.filesystem(id)?.make_dir_with_options(request, options()).await.map_err(from_guest)?;
        let made = reply.into_owned().entry.into_option();
        made.map(entry).ok_or_else(|| HostError::answered(ErrorCode::Internal, "the guest does not say what it made"))
    }

    /// Removes a file, or a directory with everything in it.
    pub async fn remove(&self, id: &SandboxId, path: &str) -> Result<(), HostError> {
        let client = self.filesystem(id)?;
        // Removing is silent when nothing is there; looking is not.
        let stat = pb::StatRequest { path: path.to_owned(), ..Default::default() };
        client.stat_with_options(stat, options()).await.map_err(from_guest)?;
        let request = pb::RemoveRequest { path: path.to_owned(), ..Default::default() };
        client.remove_with_options(request, options()).await.map_err(from_guest)?;
        Ok(())
    }

    /// Whether the guest answers. Counts as a use of the sandbox.
    pub async fn ping(&self, id: &SandboxId) -> Result<(), HostError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(self.guest_uri(id, "/health")?)
            .body(full_body(Bytes::new()))
            .map_err(HostError::address)?;
        let answer = in_time(self.streams.request(request)).await?;
        accept(answer.map_err(HostError::stream)?).await?;
        Ok(())
    }
}

fn entry(info: pb::EntryInfo) -> Entry {
    let kind = if info.is_symlink || info.r#type == pb::FileType::FILE_TYPE_SYMLINK {
        EntryKind::Symlink
    } else if info.r#type == pb::FileType::FILE_TYPE_DIRECTORY {
        EntryKind::Directory
    } else {
        EntryKind::File
    };
    Entry {
        name: info.name,
        path: info.path,
        kind,
        size: info.size,
        mode: info.mode,
        permissions: info.permissions,
        owner: info.owner,
        group: info.group,
        modified_at: info.modified_time.into_option().map_or(0, |time| time.seconds),
        symlink_target: info.symlink_target,
    }
}
