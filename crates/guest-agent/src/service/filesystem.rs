//! The file system service of the wire contract.
#![allow(refining_impl_trait_internal, refining_impl_trait_reachable)]

use std::sync::Arc;

use buffa_types::google::protobuf::Timestamp;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use proto::filesystem as wire;

use super::error::{file_error, lookup_error};
use super::process::keepalive;
use super::{Agent, watch};
use crate::auth::basic_user;
use crate::files::{self, Depth, Entries, Entry, FileError, Kind, Network, Watch, Wish, path};
use crate::settings::Settings;
use crate::users::{self, User};

/// The service.
pub struct Service(pub Arc<Agent>);

/// The name of the user that a call acts as.
pub fn user_of(ctx: &RequestContext, settings: &Settings) -> String {
    let header = ctx.header(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(basic_user).filter(|user| !user.is_empty()).unwrap_or_else(|| settings.default_user.clone())
}

impl Service {
    /// Does `work` for the caller where it may block.
    async fn run<T: Send + 'static>(
        &self,
        ctx: &RequestContext,
        work: impl FnOnce(&User, &Resolver<'_>) -> Result<T, FileError> + Send + 'static,
    ) -> Result<T, ConnectError> {
        let settings = self.0.settings.current();
        let name = user_of(ctx, &settings);
        let task = tokio::task::spawn_blocking(move || {
            let user = users::lookup(&name).map_err(lookup_error)?;
            let resolver = Resolver { home: &user.home, workdir: settings.default_workdir.as_deref() };
            work(&user, &resolver).map_err(file_error)
        });
        task.await.map_err(|error| ConnectError::internal(error.to_string()))?
    }
}

struct Resolver<'a> {
    home: &'a str,
    workdir: Option<&'a str>,
}

impl Resolver<'_> {
    fn resolve(&self, path: &str) -> Result<String, FileError> {
        Ok(path::resolve(path, self.home, self.workdir)?)
    }
}

impl wire::Filesystem for Service {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::StatRequest>,
    ) -> ServiceResult<wire::StatResponse> {
        let path = request.to_owned_message().path;
        let entry = self.run(&ctx, move |user, paths| files::stat(user, &paths.resolve(&path)?)).await?;
        Response::ok(wire::StatResponse { entry: convert(entry).into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::MakeDirRequest>,
    ) -> ServiceResult<wire::MakeDirResponse> {
        let path = request.to_owned_message().path;
        let entry = self.run(&ctx, move |user, paths| files::make_directory(user, &paths.resolve(&path)?)).await?;
        Response::ok(wire::MakeDirResponse { entry: convert(entry).into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::MoveRequest>,
    ) -> ServiceResult<wire::MoveResponse> {
        let request = request.to_owned_message();
        let work = move |user: &User, paths: &Resolver<'_>| {
            files::rename(user, &paths.resolve(&request.source)?, &paths.resolve(&request.destination)?)
        };
        let entry = self.run(&ctx, work).await?;
        Response::ok(wire::MoveResponse { entry: convert(entry).into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::ListDirRequest>,
    ) -> ServiceResult<wire::ListDirResponse> {
        let request = request.to_owned_message();
        let work =
            move |user: &User, paths: &Resolver<'_>| files::list(user, &paths.resolve(&request.path)?, request.depth);
        let entries = self.run(&ctx, work).await?.into_iter().map(convert).collect();
        Response::ok(wire::ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::RemoveRequest>,
    ) -> ServiceResult<wire::RemoveResponse> {
        let path = request.to_owned_message().path;
        self.run(&ctx, move |user, paths| files::remove(user, &paths.resolve(&path)?)).await?;
        Response::ok(wire::RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<wire::WatchDirResponse>> {
        let request = request.to_owned_message();
        let (recursive, entries, network) = (request.recursive, request.include_entry, request.allow_network_mounts);
        let watch = self.watch(&ctx, request.path, (recursive, entries, network)).await?;
        Ok(Response::new(watch::follow(watch, keepalive(&ctx), ctx.deadline())?))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::CreateWatcherRequest>,
    ) -> ServiceResult<wire::CreateWatcherResponse> {
        let request = request.to_owned_message();
        let (recursive, entries, network) = (request.recursive, request.include_entry, request.allow_network_mounts);
        let watch = self.watch(&ctx, request.path, (recursive, entries, network)).await?;
        let watcher_id = self.0.watchers.add(watch)?;
        Response::ok(wire::CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::GetWatcherEventsRequest>,
    ) -> ServiceResult<wire::GetWatcherEventsResponse> {
        let events = self.0.watchers.take(&request.to_owned_message().watcher_id).await?;
        Response::ok(wire::GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::RemoveWatcherRequest>,
    ) -> ServiceResult<wire::RemoveWatcherResponse> {
        self.0.watchers.remove(&request.to_owned_message().watcher_id)?;
        Response::ok(wire::RemoveWatcherResponse::default())
    }
}

impl Service {
    /// A watch that tells from now on what happens at `path`.
    async fn watch(
        &self,
        ctx: &RequestContext,
        path: String,
        (recursive, entries, network): (bool, bool, bool),
    ) -> Result<Watch, ConnectError> {
        let work = move |user: &User, paths: &Resolver<'_>| {
            let path = paths.resolve(&path)?;
            let depth = if recursive { Depth::Tree } else { Depth::Directory };
            let entries = if entries { Entries::Describe } else { Entries::Leave };
            let network = if network { Network::Allow } else { Network::Refuse };
            Watch::new(user.clone(), Wish { path, depth, entries, network })
        };
        self.run(ctx, work).await
    }
}

/// An entry in the words of the contract.
pub fn convert(entry: Entry) -> wire::EntryInfo {
    let kind = match entry.kind {
        Kind::File => wire::FileType::FILE_TYPE_FILE,
        Kind::Directory => wire::FileType::FILE_TYPE_DIRECTORY,
        Kind::Other => wire::FileType::FILE_TYPE_UNSPECIFIED,
    };
    let (seconds, nanos) = entry.modified;
    wire::EntryInfo {
        name: entry.name,
        r#type: kind.into(),
        path: entry.path,
        size: entry.size,
        mode: entry.mode,
        permissions: entry.permissions,
        owner: entry.owner,
        group: entry.group,
        modified_time: Timestamp { seconds, nanos, ..Default::default() }.into(),
        symlink_target: entry.symlink_target,
        metadata: entry.metadata.into_iter().collect(),
        // is_symlink stays unset: `type` is that of the target for every version of the clients then.
        ..Default::default()
    }
}
