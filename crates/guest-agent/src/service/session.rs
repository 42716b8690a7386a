//! What processes wrote, from any place that is still kept: for a client that lost its connection and comes again.
#![allow(refining_impl_trait_internal, refining_impl_trait_reachable)]

use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::stream::{self, StreamExt};
use proto::session as wire;
use proto::session::data::Output;
use proto::session::output_request::Process as Wanted;
use proto::session::output_response::Event as Told;
use tokio::time::timeout;

use super::Agent;
use super::error::no_process;
use super::process::{end, keepalive};
use crate::process::reaper::Exit;
use crate::process::{Chunk, End, Event, From, Kind, Listener, Selector, number};

/// The service.
pub struct Service(pub Arc<Agent>);

impl wire::Session for Service {
    async fn output(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::OutputRequest>,
    ) -> ServiceResult<ServiceStream<wire::OutputResponse>> {
        let request = request.to_owned_message();
        let selector = match request.process {
            Some(Wanted::Pid(pid)) => Selector::Pid(pid),
            Some(Wanted::Tag(tag)) => Selector::Tag(tag),
            None => return Err(ConnectError::invalid_argument("a process is selected by pid or tag")),
        };
        let attached = self.0.processes.attach(&selector, From::Offset(request.from)).map_err(no_process)?;
        let patience = (!request.only_what_is_there).then(|| keepalive(&ctx));
        let start = wire::Start { pid: number(attached.pid), ..Default::default() };
        let rest = stream::unfold(Some(attached.events), move |events| next(events, patience));
        Ok(Response::new(Box::pin(stream::once(async { told(start) }).chain(rest).map(Ok))))
    }
}

/// The next thing to tell. Without patience only what has happened.
async fn next(
    events: Option<Listener>,
    patience: Option<Duration>,
) -> Option<(wire::OutputResponse, Option<Listener>)> {
    let mut events = events?;
    let event = match patience {
        None => events.take()?,
        Some(patience) => match timeout(patience, events.next()).await {
            Err(_) => return Some((told(wire::KeepAlive::default()), Some(events))),
            Ok(event) => event,
        },
    };
    Some(match event {
        Event::Output(Chunk { offset, kind, bytes }) => {
            let output = match kind {
                Kind::Stdout => Output::Stdout(bytes.into()),
                Kind::Stderr => Output::Stderr(bytes.into()),
                Kind::Terminal => Output::Pty(bytes.into()),
            };
            (told(wire::Data { offset, output: Some(output), ..Default::default() }), Some(events))
        }
        Event::Lost(bytes) => (told(wire::Lost { bytes, ..Default::default() }), Some(events)),
        Event::End(how) => (told(wire_end(how)), None),
    })
}

fn told(event: impl Into<Told>) -> wire::OutputResponse {
    wire::OutputResponse { event: Some(event.into()), ..Default::default() }
}

fn wire_end(how: End) -> wire::End {
    let (exit, timed_out) = match how {
        End::Exited(exit) => (exit, false),
        End::TimedOut => (Exit::Signal(libc::SIGKILL), true),
    };
    let end = end(exit);
    wire::End { exit_code: end.exit_code, status: end.status, timed_out, ..Default::default() }
}
