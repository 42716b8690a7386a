//! Calls whose connection breaks before there is an answer.

use std::path::PathBuf;
use std::sync::Arc;

use control_plane::HostAgentAddress;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{Fixture, code};

/// A wire to the host agent that can be cut: what is on it is lost, what comes later passes again.
struct Wire {
    cut: Arc<watch::Sender<()>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Wire {
    fn new(from: &PathBuf, to: PathBuf) -> Self {
        let listener = UnixListener::bind(from).unwrap();
        let cut = Arc::new(watch::Sender::new(()));
        let cuts = cut.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, to.clone(), cuts.subscribe()));
            }
        });
        Self { cut, _accepting: AbortOnDropHandle::new(accepting) }
    }

    fn cut(&self) {
        self.cut.send_replace(());
    }
}

async fn carry(mut from: UnixStream, to: PathBuf, mut cut: watch::Receiver<()>) {
    let mut to = UnixStream::connect(to).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
        _ = cut.changed() => {}
    }
}

async fn server() -> (Fixture, Wire) {
    let mut wire = None;
    let server = Fixture::with(|config| {
        let HostAgentAddress::Unix(to) = config.host_agent.clone() else { panic!("{:?}", config.host_agent) };
        let from = to.with_extension("wire");
        wire = Some(Wire::new(&from, to));
        config.host_agent = HostAgentAddress::Unix(from);
    })
    .await;
    (server, wire.unwrap())
}

#[tokio::test]
async fn a_call_that_may_be_made_twice_is_made_again() {
    let (server, wire) = server().await;
    let id = server.create().await;
    for (method, path, times) in [
        ("create", "/v1/sandboxes".to_owned(), "POST"),
        ("describe", "/health".to_owned(), "GET"),
        ("metrics", format!("/v1/sandboxes/{id}/metrics"), "GET"),
        ("destroy", format!("/v1/sandboxes/{id}"), "DELETE"),
    ] {
        let before = server.host.calls(method);
        let gate = server.host.hold(method);
        let request = server.send(times.parse().unwrap(), &path, (times == "POST").then(|| json!({})));
        let cut = async {
            server
                .host
                .until(|state| {
                    state.calls.iter().filter(|call| call.split(' ').next() == Some(method)).count() > before
                })
                .await;
            wire.cut();
            gate.add_permits(100);
        };
        let ((status, body), ()) = tokio::join!(request, cut);
        assert!(status.is_success(), "{method}: {status} {body}");
        assert!(server.host.calls(method) >= before + 2, "{method}");
    }
    assert_eq!(server.status(&id).await, "stopped");
    let (_, list) = server.get("/v1/sandboxes?status=running").await;
    assert_eq!(list.as_array().unwrap().len(), 1, "the sandbox that was asked for twice is one: {list}");
}

#[tokio::test]
async fn a_call_that_does_something_each_time_is_not_made_again() {
    let (server, wire) = server().await;
    let id = server.create().await;
    for (method, body) in [("exec", json!({"cmd": "echo"})), ("pause", json!(null))] {
        let _gate = server.host.hold(method);
        let path = format!("/v1/sandboxes/{id}/{method}");
        let request = server.post(&path, body);
        let cut = async {
            server.host.until(|state| state.calls.iter().any(|call| call.starts_with(method))).await;
            wire.cut();
        };
        let ((status, body), ()) = tokio::join!(request, cut);
        assert_eq!((status.as_u16(), code(&body)), (503, "host_unavailable"), "{method}");
        assert_eq!(body["error"]["timeout"], "connect", "{method}");
        assert_eq!(server.host.calls(method), 1, "{method}");
    }
}

#[tokio::test]
async fn a_sandbox_whose_pause_or_resume_was_not_answered_is_on_its_way_until_its_host_says_what_it_is() {
    let (server, wire) = server().await;
    let id = server.create().await;
    for (method, transient, settled) in [("pause", "pausing", "paused"), ("resume", "resuming", "running")] {
        let _gate = server.host.hold(method);
        let looks = server.host.hold("list");
        let path = format!("/v1/sandboxes/{id}/{method}");
        let request = server.post(&path, json!(null));
        let cut = async {
            server.host.until(|state| state.calls.iter().any(|call| call.starts_with(method))).await;
            wire.cut();
        };
        let ((status, body), ()) = tokio::join!(request, cut);
        assert_eq!((status.as_u16(), code(&body)), (503, "host_unavailable"), "{method}");
        assert_eq!(server.status(&id).await, transient, "nobody knows");
        // It was carried out after all.
        server.host.update(|state| state.sandboxes.insert(id.clone(), settled.to_owned()));
        looks.add_permits(1000);
        server.until_status(&id, settled).await;
    }
}

#[tokio::test]
async fn a_host_that_always_hangs_up_is_called_twice_and_no_more() {
    let (server, wire) = server().await;
    let gate = server.host.hold("create");
    let request = server.post("/v1/sandboxes", json!({}));
    let cuts = async {
        for times in 1..=2 {
            server
                .host
                .until(|state| state.calls.iter().filter(|call| call.starts_with("create ")).count() == times)
                .await;
            wire.cut();
        }
    };
    let ((status, body), ()) = tokio::join!(request, cuts);
    assert_eq!((status.as_u16(), code(&body)), (503, "host_unavailable"));
    assert_eq!(server.host.calls("create"), 2);
    gate.add_permits(100);
}
