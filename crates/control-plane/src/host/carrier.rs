//! What carries calls to the host agent: a connection, or, in a simulation, whatever stands in for a network.

use axum::body::Body;
use connectrpc::ConnectError;
use connectrpc::client::{ClientBody, ClientTransport, SharedHttp2Connection};
use futures::future::BoxFuture;
use http::{Request, Response};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// Answers calls within this process.
pub type InProcess = BoxCloneSyncService<Request<ClientBody>, Response<Body>, ConnectError>;

/// What answers calls by this function.
pub fn in_process<Answer>(answer: impl Fn(Request<ClientBody>) -> Answer + Clone + Send + Sync + 'static) -> InProcess
where
    Answer: Future<Output = Result<Response<Body>, ConnectError>> + Send + 'static,
{
    BoxCloneSyncService::new(tower::service_fn(answer))
}

/// What carries calls.
#[derive(Clone)]
pub enum Carrier {
    /// HTTP/2 to another process.
    Connection(SharedHttp2Connection),
    /// A service.
    InProcess(InProcess),
}

impl ClientTransport for Carrier {
    type ResponseBody = Body;
    type Error = ConnectError;

    fn send(&self, request: Request<ClientBody>) -> BoxFuture<'static, Result<Response<Body>, ConnectError>> {
        match self {
            Self::Connection(connection) => {
                let answer = ClientTransport::send(connection, request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Self::InProcess(service) => Box::pin(service.clone().oneshot(request)),
        }
    }
}
