//! The directories of the fake guest: there is `/home`, and nothing else.

use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use proto::filesystem as pb;

use crate::fake_host::FakeHost;

pub struct Files {
    pub host: Arc<FakeHost>,
}

fn entry(path: &str) -> pb::EntryInfo {
    pb::EntryInfo {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        r#type: pb::FileType::FILE_TYPE_DIRECTORY.into(),
        path: path.to_owned(),
        size: 4096,
        mode: 0o755,
        permissions: "drwxr-xr-x".into(),
        owner: "root".into(),
        group: "root".into(),
        ..Default::default()
    }
}

fn link(path: &str) -> pb::EntryInfo {
    pb::EntryInfo {
        r#type: pb::FileType::FILE_TYPE_UNSPECIFIED.into(),
        is_symlink: true,
        symlink_target: Some("/nowhere".into()),
        ..entry(path)
    }
}

fn missing(path: &str) -> ConnectError {
    ConnectError::not_found(format!("{path}: no such file or directory"))
}

impl pb::Filesystem for Files {
    async fn stat(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::StatRequest>,
    ) -> ServiceResult<pb::StatResponse> {
        match request.path {
            path if path.starts_with("/home") => {
                Response::ok(pb::StatResponse { entry: entry(path).into(), ..Default::default() })
            }
            path => Err(missing(path)),
        }
    }

    async fn make_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::MakeDirRequest>,
    ) -> ServiceResult<pb::MakeDirResponse> {
        match request.path {
            "/home" => Err(ConnectError::new(connectrpc::ErrorCode::AlreadyExists, "/home is there already")),
            path => Response::ok(pb::MakeDirResponse { entry: entry(path).into(), ..Default::default() }),
        }
    }

    async fn list_dir(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::ListDirRequest>,
    ) -> ServiceResult<pb::ListDirResponse> {
        self.host.enter("list_dir", &format!("{} {}", request.path, request.depth)).await?;
        match request.path {
            "/home" => {
                let entries = vec![entry("/home/user"), link("/home/link")];
                Response::ok(pb::ListDirResponse { entries, ..Default::default() })
            }
            path => Err(missing(path)),
        }
    }

    async fn remove(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, pb::RemoveRequest>,
    ) -> ServiceResult<pb::RemoveResponse> {
        self.host.enter("remove", request.path).await?;
        Response::ok(Default::default())
    }

    async fn r#move(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::MoveRequest>,
    ) -> ServiceResult<pb::MoveResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn watch_dir(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<pb::WatchDirResponse>> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn create_watcher(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::CreateWatcherRequest>,
    ) -> ServiceResult<pb::CreateWatcherResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn get_watcher_events(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::GetWatcherEventsRequest>,
    ) -> ServiceResult<pb::GetWatcherEventsResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }

    async fn remove_watcher(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, pb::RemoveWatcherRequest>,
    ) -> ServiceResult<pb::RemoveWatcherResponse> {
        Err(ConnectError::unimplemented("not scripted"))
    }
}
